package import Linux

/// Memory of the host that a guest may map and show, and that can be taken back while it does.
package final class HostOffer {
  /// By which the guest asks for it (`blob_id`); not 0.
  package let id: UInt64
  /// In bytes, whole pages. A blob of it is of exactly this size.
  package let size: UInt64
  package let isWritable: Bool
  /// The most blobs of it at once.
  package let limit: Int
  /// How it is shown, and read; nil when it is over.
  package private(set) var buffer: Buffer?
  private var fd: FD?
  private var token: FD?

  /// The number of blobs that still have it.
  package private(set) var uses = 0
  /// Mappings and screens that have its pages, whether their blobs exist or not.
  private var holds = 0
  /// There will be no new blobs of it.
  package private(set) var isWithdrawn = false
  /// The guest is to have nothing of it any more.
  package private(set) var isCutOff = false
  /// Another number of blobs exists, or it is over.
  package var whenChanged: () -> Void = {}

  /// - Parameters:
  ///   - fd: a memfd or a dma-buf, of which the front end gets a descriptor of its own with each mapping: it can
  ///     read and write all of it, whatever `isWritable` allows the guest.
  ///   - limit: so many blobs of it may exist at once.
  ///   - token: closes when the guest has nothing of it any more.
  package init(
    id: UInt64, _ fd: consuming FD, _ buffer: Buffer, isWritable: Bool, limit: Int, token: consuming FD? = nil
  ) {
    precondition(buffer.size > 0 && buffer.size % systemPageSize == 0, "whole pages are mapped")
    (self.id, size, self.buffer, self.isWritable, self.limit) = (id, buffer.size, buffer, isWritable, limit)
    self.fd = consume fd
    self.token = token
  }

  /// It was withdrawn, and the guest has nothing of it any more.
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

  // MARK: Who has it

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
