import ArgumentParser
import GuestAgent
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Varlink

struct ListLent: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list",
    abstract: "List the buffers that this user lends; for root, all that this guest lends.")

  @OptionGroup var agent: AgentOptions
  @Flag(help: "Print JSON, in one line.") var json = false

  func run() throws {
    let list: LenderList = try agent.connect().call(method("List")).decode()
    if json { return try printLine(line(list)) }
    if !list.connected { printError("udmabridge-guest: no helper of the host answers") }
    if list.connected, list.cards == 0 {
      printError("udmabridge-guest: the helper serves no card of this guest")
    }
    for buffer in list.buffers {
      let to = buffer.to.map { " to \($0.joined(separator: ","))" } ?? ""
      try printLine(
        "\(buffer.buffer) \(buffer.state), \(buffer.size) bytes from \(buffer.offset), for \(buffer.use.rawValue)\(to), "
          + "importers: \(buffer.importers)\(buffer.copied ? ", a copy" : ""), process \(buffer.pid) of user \(buffer.user)"
      )
    }
  }
}

struct WatchLent: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract:
      "Print what happens to the buffers of list, a line of JSON for each event, until the agent ends.")

  @OptionGroup var agent: AgentOptions

  func run() throws {
    let client = try agent.connect()
    try client.callMore(method("Watch"))
    while true { try printLine(line(client.next().decode(LenderEvent.self))) }
  }
}

struct ReturnLent: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "return",
    abstract: "Take a buffer back, and wait until the host has let go of it.",
    discussion:
      "Afterwards only this guest has the pages, apart from importers that were cut off. Their number is printed."
  )

  @OptionGroup var agent: AgentOptions

  @Argument(help: ArgumentHelp("The buffer.", valueName: "id"))
  var buffer: BufferID

  @Option(help: ArgumentHelp("Begin after this time, in milliseconds.", valueName: "ms"))
  var delay = 0

  @Option(help: ArgumentHelp("Wait this long for importers, in milliseconds.", valueName: "ms"))
  var patience = 1000

  func run() throws {
    let events = try agent.connect()
    try events.callMore(method("Watch"))
    // From this event on, no event is missed.
    _ = try events.next()
    _ = try agent.connect().call(
      method("Return"), ReturnCall(buffer: buffer, delay: delay, patience: patience))
    while true {
      let event: LenderEvent = try events.next().decode()
      guard event.buffer == buffer else { continue }
      switch event.event {
      case .returned: return try printLine("returned, importers cut off: \(event.cutOff ?? 0)")
      case .revoked: throw Trouble("the host lost the buffer before it was returned: \(event.reason ?? "")")
      case .lent: throw Trouble("its lender has lent it again")
      default: break
      }
    }
  }
}

private struct ReturnCall: JSONWritable {
  let buffer: BufferID
  let delay, patience: Int
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("buffer", buffer)
      json.field("delay", delay)
      json.field("patience", patience)
    }
  }
}
