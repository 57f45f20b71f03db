/// An error that a method answers with: its full name, and its parameters.
public struct VarlinkError: Error, CustomStringConvertible {
  /// Such as `org.varlink.service.MethodNotFound`.
  public let name: String
  /// One field of text or of a number, as all errors here have; none for an empty name.
  public let field: StaticString
  public let value: Value

  public enum Value: Equatable, Sendable {
    case text(String)
    case number(Int)
  }

  public init(_ name: String, _ field: StaticString, _ value: Value) {
    (self.name, self.field, self.value) = (name, field, value)
  }

  public static func interfaceNotFound(_ name: String) -> VarlinkError {
    service("InterfaceNotFound", "interface", name)
  }
  public static func methodNotFound(_ name: String) -> VarlinkError {
    service("MethodNotFound", "method", name)
  }
  public static func methodNotImplemented(_ name: String) -> VarlinkError {
    service("MethodNotImplemented", "method", name)
  }
  public static func invalidParameter(_ name: String) -> VarlinkError {
    service("InvalidParameter", "parameter", name)
  }
  /// The method has several replies, and was not called with `more`.
  public static let expectedMore = VarlinkError("org.varlink.service.ExpectedMore", "", .text(""))

  private static func service(_ name: String, _ field: StaticString, _ value: String) -> VarlinkError {
    VarlinkError("org.varlink.service." + name, field, .text(value))
  }

  public var description: String {
    switch value {
    case .text(let text): text.isEmpty ? name : "\(name): \(text)"
    case .number(let number): "\(name): \(number)"
    }
  }
}

extension VarlinkError.Value: JSONWritable {
  public func write(to json: inout JSONWriter) {
    switch self {
    case .text(let text): text.write(to: &json)
    case .number(let number): number.write(to: &json)
    }
  }
}
