internal import Buffers
internal import DisplayProtocol
internal import Guest
internal import Linux
internal import Pictures
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// A buffer of the guest's that this process has got: its descriptor is asked for once.
final class PresentedBuffer {
  /// As the helper calls it.
  let number: Int
  let layout: FrameLayout
  /// What a card can take in; nil of a memfd of which no dma-buf can be made.
  let frame: Frame?
  private let dmabuf: DMABuf?
  private var mapping: Mapping?

  /// How often the helper was asked to hold it.
  var holds = 0
  var lastUse = Instant.now
  /// The part of it that the card has agreed to show.
  var prepared: Rectangle?
  /// A copy of that part, for when the card does not.
  private(set) var copy: Shadow?
  private var copied: Rectangle?

  /// - Parameter udmabuf: to make a dma-buf of a memfd.
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

  /// The frame, where nothing is known to stand against it.
  var itself: Frame {
    guard let frame else { preconditionFailure("what has no frame of its own is copied") }
    return frame
  }

  /// Why it is copied, as far as that is known and does not pass with a cursor.
  var whyCopied: ShadowCause? {
    if frame == nil { return ShadowCause(.udmabuf, "it is a memfd, of which no dma-buf can be made here") }
    guard let cause = copy?.cause, cause.name != .noCursorPlane else { return nil }
    return cause
  }

  /// Neither it nor its copy is on the screen, or on the way there.
  var isIdle: Bool { (frame?.uses ?? 0) == 0 && (copy?.frame.uses ?? 0) == 0 }

  /// The copy of this part, which `make` makes the first time.
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

  /// Lets the CPU read it.
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
