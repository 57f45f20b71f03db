package import Linux

/// Memory of the host that a guest may map and show, and that can be taken back meanwhile.
package final class HostOffer {
  /// The number by which the guest asks for it (`blob_id`); not 0.
  package let id: UInt64
  /// The size in bytes, whole pages. A blob of it has exactly this size.
  package let size: UInt64
  package let isWritable: Bool
  /// The most blobs of it at once.
  package let limit: Int
  /// Its memory, for screens and the CPU; nil at the end of the offer.
  package private(set) var buffer: Buffer?
  private var fd: FD?
  private var token: FD?

  /// The number of blobs that still have it.
  package private(set) var uses = 0
  /// The number of mappings and screens that have its pages, even without a blob.
  private var holds = 0
  /// Whether no new blobs of it can be made.
  package private(set) var isWithdrawn = false
  /// Called when the guest must let go of the memory.
  package private(set) var isCutOff = false
  /// Called when the number of blobs changes, and at the end.
  package var whenChanged: () -> Void = {}

  /// - Parameters:
  ///   - fd: a memfd or a dma-buf. The front end gets a descriptor of it with each mapping, and can read and write all of
  ///     it, even if `isWritable` forbids the guest to write.
  ///   - limit: at most this many blobs of it may exist at once.
  ///   - token: is closed when the guest has let go of the memory.
  package init(
    id: UInt64, _ fd: consuming FD, _ buffer: Buffer, isWritable: Bool, limit: Int, token: consuming FD? = nil
  ) {
    precondition(buffer.size > 0 && buffer.size % systemPageSize == 0, "whole pages are mapped")
    (self.id, size, self.buffer, self.isWritable, self.limit) = (id, buffer.size, buffer, isWritable, limit)
    self.fd = consume fd
    self.token = token
  }

  /// Whether it was withdrawn, and the guest has let go of the memory.
  package var isOver: Bool { buffer == nil }

  /// - Returns: false if it is over.
  package func withDescriptor<Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Void
  ) throws(Failure) -> Bool {
    guard let file = fd.take() else { return false }
    let result = Result { () throws(Failure) in try body(file) }
    fd = consume file
    try result.get()
    return true
  }

  // MARK: Users

  package func beginUse() {
    uses += 1
    whenChanged()
  }

  package func endUse() {
    uses -= 1
    settle()
  }

  package func hold() { holds += 1 }

  package func letGo() {
    holds -= 1
    settle()
  }

  package func withdraw() {
    isWithdrawn = true
    settle()
  }

  package func cutOff() { isCutOff = true }

  private func settle() {
    if isWithdrawn, uses == 0, holds == 0 {
      buffer = nil
      fd = nil
      token = nil
    }
    whenChanged()
  }
}
