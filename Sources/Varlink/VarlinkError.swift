/// A method's error: its full name, and its parameters.
package struct VarlinkError: Error, CustomStringConvertible {
  /// Such as `org.varlink.service.MethodNotFound`.
  package let name: String
  /// One field of text or of a number, as all errors here have; none for an empty name.
  package let field: StaticString
  package let value: Value

  package enum Value: Equatable, Sendable {
    case text(String)
    case number(Int)
  }

  package init(_ name: String, _ field: StaticString, _ value: Value) {
    (self.name, self.field, self.value) = (name, field, value)
  }

  package static func interfaceNotFound(_ name: String) -> VarlinkError {
    service("InterfaceNotFound", "interface", name)
  }
  package static func methodNotFound(_ name: String) -> VarlinkError {
    service("MethodNotFound", "method", name)
  }
  package static func methodNotImplemented(_ name: String) -> VarlinkError {
    service("MethodNotImplemented", "method", name)
  }
  package static func invalidParameter(_ name: String) -> VarlinkError {
    service("InvalidParameter", "parameter", name)
  }
  /// The method has several replies, and was not called with `more`.
  package static let expectedMore = VarlinkError("org.varlink.service.ExpectedMore", "", .text(""))

  private static func service(_ name: String, _ field: StaticString, _ value: String) -> VarlinkError {
    VarlinkError("org.varlink.service." + name, field, .text(value))
  }

  package var description: String {
    switch value {
    case .text(let text): text.isEmpty ? name : "\(name): \(text)"
    case .number(let number): "\(name): \(number)"
    }
  }
}

extension VarlinkError.Value: JSONWritable {
  package func write(to json: inout JSONWriter) {
    switch self {
    case .text(let text): text.write(to: &json)
    case .number(let number): number.write(to: &json)
    }
  }
}
