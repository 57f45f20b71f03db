import ArgumentParser
import Linux
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

extension Rectangle: ExpressibleByArgument {
  /// `X,Y,WxH`.
  public init?(argument: String) {
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false)
    guard parts.count == 3, let x = UInt32(parts[0]), let y = UInt32(parts[1]), max(x, y) < 1 << 16,
      let size = PixelSize(String(parts[2]), sides: 1...65536)
    else { return nil }
    self.init(x: x, y: y, width: size.width, height: size.height)
  }
}

/// A time in seconds, as `2` or `0.5`; from a millisecond on, and no longer than 46 days.
struct Seconds: ExpressibleByArgument {
  let span: TimeSpan

  init?(argument: String) {
    guard let seconds = Double(argument), (0.001...4_000_000).contains(seconds) else { return nil }
    span = .milliseconds(Int64(seconds * 1000))
  }
}
