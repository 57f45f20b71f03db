internal import Buffers
internal import DisplayProtocol
internal import Guest
internal import Linux
internal import Pictures
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// A buffer of the guest that this process has received. Its descriptor is requested once.
final class PresentedBuffer {
  /// The helper's number for the buffer.
  let number: Int
  let layout: FrameLayout
  /// The frame for a card to import; nil for a memfd of which no dma-buf can be made.
  let frame: Frame?
  private let dmabuf: DMABuf?
  private var mapping: Mapping?

  /// The number of holds that the helper has granted.
  var holds = 0
  var lastUse = Instant.now
  /// The part of the buffer that the card has agreed to show.
  var prepared: Rectangle?
  /// A copy of a part, in case the card refuses the buffer.
  private(set) var copy: Shadow?
  private var copied: Rectangle?

  /// - Parameter udmabuf: makes a dma-buf of a memfd.
  init(
    _ fd: consuming FD, _ description: DisplayFrame, _ layout: FrameLayout, id: UInt64,
    udmabuf: UdmabufDevice?
  ) throws(Errno) {
    (number, self.layout) = (description.buffer, layout)
    switch description.memory {
    case .dmabuf:
      let passed = try DMABuf(adopting: fd)
      guard let end = layout.end, passed.size >= end else { throw .invalidArgument }
      dmabuf = passed
    case .memfd:
      let memfd = try Memfd(adopting: fd)
      mapping = try memfd.mapForReading(description.size)
      dmabuf = try? udmabuf?.create(MemfdRange(memfd: memfd, offset: 0, length: UInt64(description.size)))
    }
    frame = dmabuf.map { Frame(id: id, memory: .lent($0), layout: layout) }
  }

  /// The buffer's own frame. Traps without one; `whyCopied` then says so.
  var itself: Frame {
    guard let frame else { preconditionFailure("a buffer without a frame is copied") }
    return frame
  }

  /// The known reason for a copy, unless the reason is only a cursor; nil if there is none.
  var whyCopied: ShadowCause? {
    if frame == nil { return ShadowCause(.udmabuf, "it is a memfd, of which no dma-buf can be made here") }
    guard let cause = copy?.cause, cause.name != .noCursorPlane else { return nil }
    return cause
  }

  /// Whether neither the buffer nor its copy is on the screen or on its way there.
  var isIdle: Bool { (frame?.uses ?? 0) == 0 && (copy?.frame.uses ?? 0) == 0 }

  /// The copy of this part. `make` makes it the first time.
  func copy<Failure: Error>(
    of part: Rectangle, _ make: () throws(Failure) -> Shadow
  ) throws(Failure) -> (copy: Shadow, replaced: Shadow?) {
    if let copy, copied == part { return (copy, nil) }
    let new = try make()
    let old = copy
    (copy, copied) = (new, part)
    return (new, old)
  }

  func takeCopy() -> Shadow? {
    copied = nil
    return copy.take()
  }

  /// Lets the CPU read the buffer.
  func read<Result>(_ body: (ByteSource) -> Result) throws(Errno) -> Result {
    let mapping: Mapping
    if let known = self.mapping {
      mapping = known
    } else {
      guard let dmabuf else { preconditionFailure("a buffer is a memfd or a dma-buf") }
      mapping = try dmabuf.map()
      self.mapping = mapping
    }
    try dmabuf?.beginCPUAccess(.read)
    defer { try? dmabuf?.endCPUAccess(.read) }
    return body(ByteSource([GuestWindow(mapping: mapping, start: 0, length: mapping.length)]))
  }
}
