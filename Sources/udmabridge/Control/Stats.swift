import ArgumentParser
import DisplayProtocol
import FoundationEssentials
import Metrics
import Varlink

/// Prints a helper's statistics.
struct Stats: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print the statistics of a running vhost-user-udmabuf.")

  @OptionGroup var socket: HelperChoice

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let statistics = try socket.connect().call("Statistics").decode(HelperCount.self)
    if json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      print(String(decoding: try encoder.encode(statistics), as: UTF8.self))
    } else {
      // The device's own counts come first.
      let lines = ["device", "control"].flatMap { statistics[$0]?.all(below: $0) ?? [] }
      let width = lines.map(\.name.count).max() ?? 0
      for line in lines {
        print(line.name + String(repeating: " ", count: width - line.name.count), line.count)
      }
    }
  }
}
