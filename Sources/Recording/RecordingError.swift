package import DisplayProtocol
package import Scanout
package import SystemPackage

/// Why there is no picture.
package enum RecordingError: Error, CustomStringConvertible {
  /// The service passed no descriptor with its answer.
  case noDescriptor
  case unreadable(DisplayFrame)
  case tooLarge(PixelSize)
  case unmappable(buffer: Int, Errno)
  case tooShort(buffer: Int)
  case cursor(Errno)
  /// The guest has `count` scanouts.
  case noScanout(Int, count: Int)
  /// The service closed one connection after the other.
  case closedAgain(times: Int)

  package var description: String {
    switch self {
    case .noDescriptor: "the service passed no descriptor"
    case .unreadable(let frame): "a frame of \(frame.width)x\(frame.height) \(frame.format) cannot be read"
    case .tooLarge(let size):
      "a picture of \(size) has more than \(RecordedPicture.mostPixels) pixels, the most that are recorded"
    case .unmappable(let buffer, let error): "buffer \(buffer) cannot be mapped: \(error)"
    case .tooShort(let buffer): "buffer \(buffer) is smaller than its frame"
    case .cursor(let error): "the cursor's image cannot be mapped: \(error)"
    case .noScanout(let number, let count):
      "the guest has no scanout \(number): "
        + (count == 0 ? "it has none" : "they are numbered from 0 to \(count - 1)")
    case .closedAgain(let times): "the service closed \(times) connections, one after the other"
    }
  }
}
