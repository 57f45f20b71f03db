package import Guest
internal import Linux
package import Scanout

/// An event of a trace: something that a guest reports to its helper. It has one line, and a list has more. This file turns
/// events into text, and `TraceWords` turns text into events.
package enum TraceEvent: Equatable, Sendable {
  /// The guest's memory is this from now on.
  case memory([LayoutLine])
  /// The device's driver starts: all that it had before is gone.
  case start(device: Int)
  case image(TracedResource, width: UInt32, height: UInt32, FourCC)
  case blob(TracedResource, bytes: UInt64)
  /// A blob of the host's memory, which has no page list.
  case hostBlob(TracedResource, bytes: UInt64)
  case attach(TracedResource, [GuestRange])
  case detach(TracedResource)
  case destroy(TracedResource)
  case scanout(Int, TracedResource, Rectangle)
  /// An image in a blob, with its layout.
  case blobScanout(Int, TracedResource, Rectangle, FrameLayout)
  case scanoutOff(Int, device: Int)
  case flush(TracedResource, Rectangle)
  /// A part of a resource is lent to programs of the host, in bytes. Lent buffers have numbers of their own.
  case lend(UInt64, TracedResource, offset: UInt64, bytes: UInt64)
  /// A lent buffer was returned or revoked.
  case giveBack(UInt64)
  case end(TraceEnd)
}

/// Why a trace has ended. A trace without an end is of a helper that runs, was killed or could not write.
package enum TraceEnd: String, Sendable {
  /// The helper ended.
  case stopped
  /// The file had as many bytes as it may have.
  case full
}

/// A resource of one of the helper's devices.
package struct TracedResource: Hashable, Sendable, CustomStringConvertible {
  /// The device's number, from 0 on, in the order of the options.
  package let device: Int
  /// The guest's number; never 0.
  package let number: UInt32

  package init(device: Int, number: UInt32) { (self.device, self.number) = (device, number) }

  package var description: String { "\(device)/\(number)" }
}

/// The limits of a trace's numbers.
package enum TraceLimits {
  /// The devices of one helper.
  package static let devices = 3
  /// Of each device.
  package static let scanouts = 16
  /// In one page list.
  package static let entries = 1 << 24
  package static let lines = 1 << 28
  /// In bytes, without the end of the line.
  package static let lineLength = 160
  /// In a resource; more than any guest has.
  package static let bytes: UInt64 = 1 << 46
  /// Resources, and lent buffers, that exist at once.
  package static let atOnce = 1 << 17
}

extension TraceEvent {
  /// The first line of each trace; it names the format.
  package static let header = "udmabridge-trace 1\n"

  /// Appends the event's lines.
  package func write(to text: inout [UInt8]) {
    text += "\(firstLine)\n".utf8
    switch self {
    case .memory(let parts): for part in parts { text += "\(part)\n".utf8 }
    case .attach(_, let entries): for entry in entries { Self.write(entry, to: &text) }
    default: break
    }
  }

  /// Appends the line of one entry of a page list.
  static func write(_ entry: GuestRange, to text: inout [UInt8]) {
    text += "\(entry.address):\(hex(entry.length))\n".utf8
  }

  /// The most bytes that the line of an entry has.
  static let entrySize = 40

  /// - Parameter count: of the entries that follow.
  static func attachLine(_ resource: TracedResource, count: Int) -> String { "attach \(resource) \(count)" }

  private var firstLine: String {
    switch self {
    case .memory(let parts): "memory \(parts.count)"
    case .start(let device): "start \(device)"
    case .image(let resource, let width, let height, let format):
      "image \(resource) \(width)x\(height) \(format)"
    case .blob(let resource, let bytes): "blob \(resource) \(bytes)"
    case .hostBlob(let resource, let bytes): "host-blob \(resource) \(bytes)"
    case .attach(let resource, let entries): Self.attachLine(resource, count: entries.count)
    case .detach(let resource): "detach \(resource)"
    case .destroy(let resource): "destroy \(resource)"
    case .scanout(let scanout, let resource, let area): "scanout \(scanout) \(resource) \(area)"
    case .blobScanout(let scanout, let resource, let area, let image):
      "blob-scanout \(scanout) \(resource) \(area) \(image.width)x\(image.height) \(image.format) \(image.stride) "
        + "\(image.offset)"
    case .scanoutOff(let scanout, let device): "off \(device) \(scanout)"
    case .flush(let resource, let area): "flush \(resource) \(area)"
    case .lend(let number, let resource, let offset, let bytes):
      "lend \(number) \(resource) \(offset) \(bytes)"
    case .giveBack(let number): "return \(number)"
    case .end(let end): "end \(end.rawValue)"
    }
  }
}
