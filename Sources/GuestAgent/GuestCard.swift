package import Linux
package import SystemPackage

/// A virtio-gpu of this guest. The host sees the pages of its buffers.
package protocol GuestCard: AnyObject {
  /// Whether it is still plugged in.
  var isThere: Bool { get }
  var handles: CardHandles { get }

  /// Makes a buffer of at least this many bytes, full of zeros.
  func makeBuffer(_ size: UInt64) throws(Errno) -> CardBuffer
  /// Imports a dma-buf into the card. A dma-buf of the card itself gives the same buffer as before.
  func importBuffer(_ dmabuf: borrowing FD) throws(Errno) -> CardBuffer
  /// Makes a buffer of the host's offer of this number, with exactly its size in bytes.
  /// - Throws: `invalidArgument` if the host does not map the offer.
  func receive(_ offer: UInt64, size: UInt64) throws(Errno) -> CardBuffer
  /// A dma-buf of a buffer that the card has made. The caller owns it.
  func export(_ buffer: CardBuffer) throws(Errno) -> FD
  /// Maps all of a buffer that the card has made.
  func map(_ buffer: CardBuffer) throws(Errno) -> Mapping
  /// Makes a buffer with the bytes that a dma-buf has now.
  func copy(_ dmabuf: DMABuf) throws(Errno) -> CardBuffer
}

extension GuestCard {
  package func copy(_ dmabuf: DMABuf) throws(Errno) -> CardBuffer {
    let source = try dmabuf.map()
    let buffer = try makeBuffer(dmabuf.size)
    let target = try map(buffer)
    try dmabuf.beginCPUAccess(.read)
    target.copy(source.length, from: source, at: 0, to: 0)
    try dmabuf.endCPUAccess(.read)
    return buffer
  }
}

/// A buffer that a card knows, under a handle of one open device file. The handle closes with the last reference.
package final class CardBuffer {
  package let handle: UInt32
  /// The number by which the host knows it.
  package let resource: UInt32
  /// In bytes.
  package let size: UInt64
  /// Whether the card has made it; its pages then go with the card.
  package let isOwn: Bool
  private let handles: CardHandles

  fileprivate init(_ handle: UInt32, resource: UInt32, size: UInt64, isOwn: Bool, _ handles: CardHandles) {
    (self.handle, self.resource, self.size, self.isOwn, self.handles) = (
      handle, resource, size, isOwn, handles
    )
  }

  deinit { handles.close(handle, isOwn: isOwn) }
}

/// The handles of one open device file. DRM gives the same handle for the same dma-buf each time, but does not count its
/// uses, so this table counts them.
package final class CardHandles {
  private struct Entry { weak var buffer: CardBuffer? }

  private var open: [UInt32: Entry] = [:]
  private let whenUnused: (UInt32) -> Void
  /// Unused handles, which are closed when the device answers the card's driver.
  private var unused: [UInt32] = []

  /// Whether the card's device answers its driver. To close a handle of another driver's buffer, the driver waits for the device.
  /// Without a helper it waits for ever, and the process cannot be killed. Such handles therefore stay open until there is one.
  package var isAnswered = true {
    didSet {
      if !isAnswered { return }
      let old = unused
      unused = []
      for handle in old { whenUnused(handle) }
    }
  }

  /// Whether there is a handle of another driver's buffer, in use or not. The kernel closes it with the device file.
  package var hasForeign: Bool { !unused.isEmpty || open.values.contains { $0.buffer?.isOwn == false } }

  /// - Parameter whenUnused: closes a handle that nobody uses any more.
  package init(_ whenUnused: @escaping (UInt32) -> Void) { self.whenUnused = whenUnused }

  /// The buffer of a handle that DRM has just given: the existing one, or a new one from `describe`.
  package func buffer(
    _ handle: UInt32,
    _ describe: () throws(Errno) -> (resource: UInt32, size: UInt64, isOwn: Bool)
  ) throws(Errno) -> CardBuffer {
    if let known = open[handle]?.buffer { return known }
    unused.removeAll { $0 == handle }
    do throws(Errno) {
      let (resource, size, isOwn) = try describe()
      let buffer = CardBuffer(handle, resource: resource, size: size, isOwn: isOwn, self)
      open[handle] = Entry(buffer: buffer)
      return buffer
    } catch {
      whenUnused(handle)
      throw error
    }
  }

  fileprivate func close(_ handle: UInt32, isOwn: Bool) {
    open[handle] = nil
    if isAnswered || isOwn { whenUnused(handle) } else { unused.append(handle) }
  }
}
