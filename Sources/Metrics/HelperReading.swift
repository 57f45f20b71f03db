internal import DomainOptions
package import Linux
package import SystemPackage
package import Varlink

/// A helper, by its domain and by its control socket.
package struct HelperPlace: Equatable, Sendable {
  package let domain: String
  package let control: FilePath

  package init(domain: String, control: FilePath) { (self.domain, self.control) = (domain, control) }

  /// The helpers of all running domains, in the order of their names.
  /// - Parameter root: the directory in which the host's files are.
  package static func running(root: FilePath = "/") -> [HelperPlace] {
    DomainPlaces.running(root: root).map {
      HelperPlace(domain: $0.domain, control: $0.existingControl ?? $0.chosenControl ?? $0.control)
    }
  }
}

/// Why a helper gave no statistics.
package enum ReadingError: Error, CustomStringConvertible {
  case call(VarlinkClientError)
  /// The helper has not answered in this time: it is stopped, or too busy.
  case late(TimeSpan)
  /// The answer has an impossible value in this field.
  case impossible(field: String)
  case system(Errno)

  package var description: String {
    switch self {
    case .call(let error): "\(error)"
    case .late(let span): "the helper has not answered in \(span): it is stopped, or too busy"
    case .impossible(let field): "what the service says of \(field) cannot be from a helper"
    case .system(let error): "the control socket cannot be watched: \(error)"
    }
  }
}

/// A helper's answer.
package struct HelperReading {
  package let place: HelperPlace
  /// The time of the question, and the wait for the answer.
  package let began: Instant
  package let duration: TimeSpan
  package let answer: Result<HelperCount, ReadingError>

  /// The limits on names of causes and kinds. They become labels, each of which costs memory in the metrics' database.
  static let (mostNames, longestName) = (64, 64)

  package init(
    _ place: HelperPlace, began: Instant, duration: TimeSpan, _ answer: Result<HelperCount, ReadingError>
  ) {
    (self.place, self.began, self.duration, self.answer) = (place, began, duration, answer)
  }

  /// Refuses an answer that no helper gives: a peer's values are checked where they arrive.
  static func check(_ count: HelperCount) throws(ReadingError) {
    // Every helper has counted flushes, and something on this socket.
    for field in ["device", "control"] {
      guard case .group? = count[field] else { throw .impossible(field: field) }
    }
    for family in MetricFamily.ofHelpers {
      switch count[family.field] {
      case nil: continue  // An older helper has no such field.
      case .number: if family.label != nil { throw .impossible(field: family.field) }
      case .group(let group):
        guard family.label != nil, group.count <= mostNames, group.keys.allSatisfy(isName),
          count.numbers(by: family.field).count == group.count
        else { throw .impossible(field: family.field) }
      }
    }
  }

  /// Letters and digits of ASCII.
  private static func isName(_ text: String) -> Bool {
    (1...longestName).contains(text.utf8.count)
      && text.utf8.allSatisfy {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0 | 0x20)
          || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
      }
  }
}
