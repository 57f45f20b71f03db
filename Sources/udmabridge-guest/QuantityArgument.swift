import ArgumentParser
import Programs

extension Quantity: ExpressibleByArgument {
  public init?(argument: String) {
    guard let value = Self.parse(Array(argument.utf8)[...]) else { return nil }
    self.init(value)
  }

  public var defaultValueDescription: String { description }
}
