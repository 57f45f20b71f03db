internal import DisplayProtocol
internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// A buffer of the guest, whose descriptor this process asks for once.
final class StreamedBuffer {
  /// The helper's number of the buffer.
  let number: Int
  let layout: FrameLayout
  /// In bytes.
  let size: UInt64
  let memory: StreamedMemory
  private var mapping: Mapping?

  /// The number of holds that the helper has granted.
  var holds = 0
  /// The number of pictures in the buffer that clients have.
  var uses = 0
  var lastUse = Instant.now

  /// - Parameter udmabuf: makes a dma-buf of a memfd, if one is needed.
  init(
    _ fd: consuming FD, _ description: DisplayFrame, _ layout: FrameLayout, udmabuf: UdmabufDevice?
  ) throws {
    (number, self.layout) = (description.buffer, layout)
    switch description.memory {
    case .dmabuf:
      let dmabuf = try DMABuf(adopting: fd)
      (memory, size) = (.dmabuf(dmabuf), dmabuf.size)
    case .memfd:
      let memfd = try Memfd(adopting: fd)
      size = UInt64(clamping: description.size)
      // A read beyond the memfd's end would kill the reader (SIGBUS).
      try memfd.checkCannotShrink(below: size)
      if let udmabuf {
        memory = .dmabuf(try udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: size)))
      } else {
        memory = .memfd(memfd)
      }
    }
    guard let end = layout.end, end <= size else { throw Errno.invalidArgument }
  }

  /// Lets the CPU read the buffer.
  func read(_ body: (Mapping) -> Void) throws(Errno) {
    switch memory {
    case .memfd(let memfd): body(try mapped { () throws(Errno) in try memfd.mapForReading(Int(size)) })
    case .dmabuf(let dmabuf):
      let mapping = try mapped { () throws(Errno) in try dmabuf.map() }
      try dmabuf.beginCPUAccess(.read)
      body(mapping)
      try? dmabuf.endCPUAccess(.read)
    case .copy(let copy): body(copy.mapping)
    }
  }

  private func mapped(_ map: () throws(Errno) -> Mapping) throws(Errno) -> Mapping {
    if let mapping { return mapping }
    let new = try map()
    mapping = new
    return new
  }
}

/// The memory that clients get.
enum StreamedMemory {
  case dmabuf(DMABuf)
  case memfd(Memfd)
  case copy(StreamedCopy)

  var kind: UnixFDBuffer.Memory { if case .dmabuf = self { .dmabuf } else { .file } }

  /// Lends the descriptor that clients get.
  func withDescriptor<Result, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    switch self {
    case .dmabuf(let dmabuf): try dmabuf.withDescriptor(body)
    case .memfd(let memfd): try memfd.withDescriptor(body)
    case .copy(let copy): try copy.withDescriptor(body)
    }
  }
}

/// A copy of a picture, in memory that clients can only read.
final class StreamedCopy {
  let mapping: Mapping
  fileprivate var isFree = true
  private let reader: FD

  /// - Parameter size: in bytes.
  fileprivate init(_ size: Int) throws(Errno) {
    let memfd = try Memfd.create(
      name: "udmabridge-stream", size: UInt64(size), seals: [.shrink, .grow, .seal])
    mapping = try memfd.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: size, writable: true)
    }
    reader = try memfd.withDescriptor { fd throws(Errno) in try fd.reopen(writable: false) }
  }

  func withDescriptor<Result, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(reader)
  }

  /// Called when no client reads the copy any more.
  func giveBack() { isFree = true }
}

/// Copies of pictures. Each is used again when no client has it any more.
struct StreamedCopies {
  /// The most copies at once.
  static let limit = 8
  private var copies: [StreamedCopy] = []

  /// Takes a free copy; nil while all are in use.
  /// - Parameter size: in bytes.
  mutating func take(_ size: Int) throws(Errno) -> StreamedCopy? {
    // Free copies of another size are of no use any more.
    copies.removeAll { $0.isFree && $0.mapping.length != size }
    var free = copies.first { $0.isFree }
    if free == nil, copies.count < Self.limit {
      let new = try StreamedCopy(size)
      copies.append(new)
      free = new
    }
    free?.isFree = false
    return free
  }
}
