internal import Linux
internal import Scanout
internal import SystemPackage

/// The memory in which a client finds a picture.
struct StreamedPart {
  let memory: StreamedMemory
  /// The picture's place in the memory, in bytes.
  let offset, size: UInt64
  /// The layout of the rows, if the client is told.
  let rows: VideoRows?
  /// Why the client gets a copy; nil if it gets the buffer itself.
  let copied: String?

  /// Takes the buffer itself, or a copy if GStreamer would compute another stride for plain memory.
  /// - Parameters:
  ///   - source: the part of the buffer's image that is shown.
  ///   - copies: the source of a copy. The part's owner gives the copy back.
  init(
    of buffer: StreamedBuffer, _ source: Rectangle, as caps: VideoCaps, _ copies: inout StreamedCopies
  ) throws {
    let layout = buffer.layout
    let pixel = UInt64(caps.rowBytes) / UInt64(caps.width)
    let start = UInt64(layout.offset) + UInt64(source.y) * UInt64(layout.stride) + UInt64(source.x) * pixel
    let whole = UInt64(caps.size)
    switch caps.kind {
    case .dmabuf:
      guard case .dmabuf = buffer.memory else { throw StreamingError.noDMABuf(buffer: buffer.number) }
      (memory, offset, copied) = (buffer.memory, start, nil)
      size = UInt64(layout.stride) * UInt64(caps.height - 1) + UInt64(caps.rowBytes)
      rows = caps.rows(stride: layout.stride)
    case .memory where Int(layout.stride) == caps.stride && start + whole <= buffer.size:
      (memory, offset, size, rows, copied) = (buffer.memory, start, whole, nil, nil)
    case .memory:
      guard let copy = try copies.take(caps.size) else {
        throw StreamingError.copiesAreInUse(StreamedCopies.limit)
      }
      do throws(Errno) {
        try buffer.read { source in
          for row in 0..<Int(caps.height) {
            copy.mapping.copy(
              caps.rowBytes, from: source, at: Int(start) + row * Int(layout.stride), to: row * caps.stride)
          }
        }
      } catch {
        copy.giveBack()
        throw error
      }
      (memory, offset, size, rows) = (.copy(copy), 0, whole, nil)
      copied =
        "its rows are \(layout.stride) bytes apart, and GStreamer takes them to be \(caps.stride) bytes apart"
    }
  }
}
