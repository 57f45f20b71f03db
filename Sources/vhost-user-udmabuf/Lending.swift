import ArgumentParser
import Lending
import Linux
import Port
import Programs

/// The options of the port, over which the guest's agent lends buffers.
struct PortOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Let the guest lend any buffer: listen on this Unix socket, to which QEMU connects a virtio-serial port of the guest. Needs --control, on which other processes import.",
      valueName: "path"))
  var port: String?

  @Option(
    help: ArgumentHelp(
      "An audience: users of the host to whom the guest may lend by this name, NAME=uid:N or NAME=group:NAME. May be repeated, also for one name.",
      valueName: "NAME=who"))
  var audience: [AudienceOption] = []

  @Option(help: ArgumentHelp("At most this many buffers may be lent at once.", valueName: "count"))
  var maxLent = LendingLimits().buffers

  @Option(help: ArgumentHelp("The longest metadata of one lent buffer.", valueName: "size"))
  var maxMetadata = ByteCount(UInt64(LendingLimits().metadata))

  @Option(help: ArgumentHelp("At most this many imports of the guest's buffers at once.", valueName: "count"))
  var maxImports = LendingLimits().imports

  @Option(help: ArgumentHelp("The longest line from the port.", valueName: "size"))
  var portLine = ByteCount(UInt64(PortLimits().line))

  @Option(
    help: ArgumentHelp("At most this many lines per second are read from the port.", valueName: "count"))
  var portRate = PortLimits().linesPerSecond

  @Option(
    help: ArgumentHelp(
      "This many lines from the port may come at once before --port-rate holds.", valueName: "count"))
  var portBurst = PortLimits().burst

  func validate() throws {
    if port == nil, !audience.isEmpty {
      throw ValidationError("--audience needs --port, over which a guest lends")
    }
    if !(1...100_000).contains(maxLent) {
      throw ValidationError("--max-lent \(maxLent) is not from 1 to 100000")
    }
    if !(1...16_384).contains(maxImports) {
      throw ValidationError("--max-imports \(maxImports) is not from 1 to 16384")
    }
    if maxMetadata.bytes > UInt64(LendingPort.longestMetadata) {
      throw ValidationError("--max-metadata is at most \(LendingPort.longestMetadata)")
    }
    if !(1 << 10...64 << 10).contains(portLine.bytes) {
      throw ValidationError("--port-line is from 1K to 64K")
    }
    if !(1...1_000_000).contains(portRate) || !(1...1_000_000).contains(portBurst) {
      throw ValidationError("--port-rate and --port-burst are from 1 to 1000000")
    }
    if Set(audience.map(\.name)).count > LendingPort.mostAudiences {
      throw ValidationError("--audience may define at most \(LendingPort.mostAudiences) names")
    }
  }

  var limits: PortLimits {
    var limits = PortLimits()
    (limits.line, limits.linesPerSecond, limits.burst) = (Int(portLine.bytes), portRate, portBurst)
    return limits
  }

  var lending: LendingLimits {
    var limits = LendingLimits()
    (limits.buffers, limits.metadata, limits.imports) = (maxLent, Int(maxMetadata.bytes), maxImports)
    return limits
  }

  /// The audiences by their names. This looks up the groups.
  func audiences() throws -> [String: Audience] {
    var audiences: [String: Audience] = [:]
    for option in audience {
      switch option.who {
      case .user(let user): audiences[option.name, default: Audience()].users.insert(user)
      case .group(let name):
        guard let group = groupNumber(of: name) else {
          throw Trouble("--audience \(option.name)=group:\(name): there is no group \(name)")
        }
        audiences[option.name, default: Audience()].groups.insert(group)
      }
    }
    return audiences
  }
}

/// `viewers=group:video`
struct AudienceOption: ExpressibleByArgument {
  let name: String
  let who: Allowed

  init?(argument: String) {
    guard let equals = argument.firstIndex(of: "=") else { return nil }
    let (name, who) = (argument[..<equals], argument[argument.index(after: equals)...])
    let isGood = name.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
        true
      default: false
      }
    }
    guard isGood, (1...LendingPort.longestAudienceName).contains(name.utf8.count) else { return nil }
    let allowed =
      who.hasPrefix("uid:")
      ? UInt32(who.dropFirst(4)).map(Allowed.user)
      : who.hasPrefix("group:") ? Allowed(argument: String(who)) : nil
    guard let allowed else { return nil }
    (self.name, self.who) = (String(name), allowed)
  }
}
