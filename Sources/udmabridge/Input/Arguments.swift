import ArgumentParser
import Programs
import Scanout

extension Quantity: ExpressibleByArgument {
  public init?(argument: String) {
    guard let value = Self.parse(Array(argument.utf8)[...]) else { return nil }
    self.init(value)
  }

  public var defaultValueDescription: String { description }
}

extension PixelSize: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument, sides: 1...65536) }
}
