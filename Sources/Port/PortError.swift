internal import Lending
internal import Varlink

/// Why a line of the guest's agent is refused.
package struct PortError: Error, Equatable {
  package enum Name: String, CaseIterable, Sendable {
    case notACommand = "NotACommand"
    case lineTooLong = "LineTooLong"
    case commandNotFound = "CommandNotFound"
    case invalidArgument = "InvalidArgument"
    case wrongVersion = "WrongVersion"
    case noSuchSecret = "NoSuchSecret"
    case tooManyProofs = "TooManyProofs"
    case noSuchDevice = "NoSuchDevice"
    case staleDevice = "StaleDevice"
    case noSuchResource = "NoSuchResource"
    case notLent = "NotLent"
    case memoryOfHost = "MemoryOfHost"
    case outOfRange = "OutOfRange"
    case alreadyLent = "AlreadyLent"
    case noSuchAudience = "NoSuchAudience"
    case tooManyBuffers = "TooManyBuffers"
    case metadataTooLong = "MetadataTooLong"
    case noSuchBuffer = "NoSuchBuffer"
  }

  package let name: Name
  package let text: String

  package init(_ name: Name, _ text: String) { (self.name, self.text) = (name, text) }

  init(_ error: LendingError) {
    let name: Name =
      switch error {
      case .noSuchBuffer: .noSuchBuffer
      case .outOfRange: .outOfRange
      case .alreadyLent: .alreadyLent
      case .noSuchAudience: .noSuchAudience
      case .tooManyAudiences: .invalidArgument
      case .tooManyBuffers: .tooManyBuffers
      case .metadataTooLong: .metadataTooLong
      case .tooManyImports, .isReturning, .notForFilling, .filledByAnother, .notFilling:
        preconditionFailure("only importers do that wrong: \(error)")
      }
    self.init(name, "\(error)")
  }

  /// The fault of a command's field.
  init(_ error: DecodingError, in command: String) {
    let what =
      switch error {
      case .keyNotFound: "it is missing"
      case .typeMismatch, .valueNotFound: "it has the wrong type"
      case .dataCorrupted(let context): context.debugDescription
      @unknown default: "it cannot be read"
      }
    let path = error.path
    let field = path.count > 1 && path[0] == "arguments" ? path.dropFirst() : path[...]
    self.init(.invalidArgument, "\(command): \(field.joined(separator: ".")): \(what)")
  }
}
