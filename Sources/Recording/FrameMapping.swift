internal import DisplayProtocol
internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// A frame's memory from the control socket, mapped while the CPU reads it.
final class FrameMapping {
  let mapping: Mapping
  let layout: FrameLayout
  /// The part of the image that is shown.
  let source: Rectangle
  /// Turns the frame's pixels into those of a picture, of which none is transparent.
  let shuffle: PixelShuffle
  private let dmabuf: DMABuf?

  init(_ fd: consuming FD, _ frame: DisplayFrame) throws(RecordingError) {
    guard let (layout, source) = frame.geometry, let end = layout.end,
      let shuffle = (layout.format.opaque ?? layout.format).shuffle(to: .abgr8888)
    else { throw .unreadable(frame) }
    guard UInt64(source.width) * UInt64(source.height) <= RecordedPicture.mostPixels else {
      throw .tooLarge(PixelSize(width: source.width, height: source.height))
    }
    (self.layout, self.source, self.shuffle) = (layout, source, shuffle)
    do throws(Errno) {
      switch frame.memory {
      case .memfd:
        mapping = try Memfd(adopting: fd).mapForReading(frame.size)
        dmabuf = nil
      case .dmabuf:
        let dmabuf = try DMABuf(adopting: fd)
        mapping = try dmabuf.map()
        try dmabuf.beginCPUAccess(.read)
        self.dmabuf = dmabuf
      }
    } catch { throw .unmappable(buffer: frame.buffer, error) }
    guard mapping.length >= end else { throw .tooShort(buffer: frame.buffer) }
  }

  deinit { try? dmabuf?.endCPUAccess(.read) }
}
