import ArgumentParser
import DisplayProtocol
import FoundationEssentials
import Varlink

/// Prints what a helper has counted.
struct Stats: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print the statistics of a running vhost-user-udmabuf.")

  @OptionGroup var socket: HelperChoice

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let statistics = try socket.connect().call("Statistics").decode(Counters.self)
    if json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      print(String(decoding: try encoder.encode(statistics), as: UTF8.self))
    } else {
      let lines = [("device", statistics.device), ("control", .group(statistics.control))].flatMap {
        $1.lines($0)
      }
      let width = lines.map(\.name.count).max() ?? 0
      for line in lines {
        print(line.name + String(repeating: " ", count: width - line.name.count), line.count)
      }
    }
  }
}

private struct Counters: Codable {
  let device: Counter
  let control: [String: Counter]
}

/// A number, or several with names, as those by cause.
private enum Counter: Codable {
  case number(UInt64)
  case group([String: Counter])

  init(from decoder: any Decoder) throws {
    let value = try decoder.singleValueContainer()
    self =
      try (try? value.decode(UInt64.self)).map { .number($0) } ?? .group(value.decode([String: Counter].self))
  }

  func encode(to encoder: any Encoder) throws {
    var value = encoder.singleValueContainer()
    switch self {
    case .number(let number): try value.encode(number)
    case .group(let group): try value.encode(group)
    }
  }

  func lines(_ name: String) -> [(name: String, count: UInt64)] {
    switch self {
    case .number(let number): [(name, number)]
    case .group(let group): group.sorted { $0.key < $1.key }.flatMap { $1.lines("\(name).\($0)") }
    }
  }
}
