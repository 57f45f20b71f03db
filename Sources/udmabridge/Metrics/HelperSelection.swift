import ArgumentParser
import Linux
import Metrics
import SystemPackage

/// The helpers that are asked: those of all domains that run, or the ones that are named.
struct HelperSelection: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "In place of all running domains of libvirt, a helper by its control socket, and what its domain is to be called. May be repeated.",
      valueName: "name=path"), transform: readPlace)
  var control: [HelperPlace] = []

  /// In UTF-8, in bytes. A domain's name is shorter.
  private static let longestName = 255

  static func readPlace(_ text: String) throws -> HelperPlace {
    let sides = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard sides.count == 2, !sides[0].isEmpty, !sides[1].isEmpty else {
      throw ValidationError(
        "\(text) says not both whose and which: give NAME=PATH, as in web=/run/vg.control")
    }
    guard sides[0].utf8.count <= longestName else {
      throw ValidationError("a name of \(sides[0].utf8.count) bytes: \(longestName) are the most")
    }
    return HelperPlace(domain: String(sides[0]), control: FilePath(String(sides[1])))
  }

  func validate() throws {
    var seen: Set<String> = []
    for place in control where !seen.insert(place.domain).inserted {
      throw ValidationError("--control names \(place.domain) twice: two domains need two names")
    }
  }

  /// As of now.
  var places: [HelperPlace] { control.isEmpty ? HelperPlace.running() : control }
}

/// Tells on standard error of helpers that do not answer: once, until they do or the reason is another one.
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

/// Why a helper does not answer, with what this program's options can do about it.
func whySilent(_ error: ReadingError) -> String {
  guard case .call(let error) = error else { return "\(error)" }
  return explained(error)
}
