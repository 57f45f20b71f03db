import ArgumentParser
import Linux
import Metrics
import SystemPackage

/// The helpers to ask: those of all running domains, or those that the options name.
struct HelperSelection: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A helper by its control socket, with a name for its domain. May be repeated. By default the helpers of all running domains of libvirt are asked.",
      valueName: "name=path"), transform: readPlace)
  var control: [HelperPlace] = []

  /// The limit in bytes of UTF-8. A domain's name is shorter.
  private static let longestName = 255

  static func readPlace(_ text: String) throws -> HelperPlace {
    let sides = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard sides.count == 2, !sides[0].isEmpty, !sides[1].isEmpty else {
      throw ValidationError(
        "\(text) is not a name and a socket: give NAME=PATH, as in web=/run/vg.control")
    }
    guard sides[0].utf8.count <= longestName else {
      throw ValidationError("the name has \(sides[0].utf8.count) bytes: give one of at most \(longestName)")
    }
    return HelperPlace(domain: String(sides[0]), control: FilePath(String(sides[1])))
  }

  func validate() throws {
    var seen: Set<String> = []
    for place in control where !seen.insert(place.domain).inserted {
      throw ValidationError("--control names \(place.domain) twice: two domains need two names")
    }
  }

  /// The helpers at this moment.
  var places: [HelperPlace] { control.isEmpty ? HelperPlace.running() : control }
}

/// Reports helpers that do not answer on standard error: once, until they answer or the reason changes.
struct SilenceLog {
  private var told: [String: String] = [:]

  /// - Returns: lines.
  mutating func add(_ readings: [HelperReading]) -> [String] {
    var now: [String: String] = [:]
    for reading in readings {
      if case .failure(let error) = reading.answer { now[reading.place.domain] = whySilent(error) }
    }
    defer { told = now }
    return now.filter { told[$0.key] != $0.value }.sorted { $0.key < $1.key }.map {
      "udmabridge: domain \(printable($0.key)): \(printable($0.value))"
    }
  }
}

/// Why a helper does not answer, with the options of this program that help.
func whySilent(_ error: ReadingError) -> String {
  guard case .call(let error) = error else { return "\(error)" }
  return explained(error)
}
