internal import Guest
package import Linux
package import Udmabuf

/// A piece of the guest's memory, or of the host's memory for the guest, that the graphics stack may see.
package final class Buffer {
  package enum Backing {
    /// A dma-buf over the pages themselves, nothing copied.
    case lent(DMABuf)
    /// The picture is a copy, for this cause.
    case shadow(ShadowCause)
  }

  /// Its ranges, as few as possible.
  package let ranges: [MemfdRange]
  /// The number of entries in the guest's page list.
  package let entries: Int
  /// The size in bytes; whole pages if it is lent.
  package let size: UInt64
  package internal(set) var backing: Backing
  /// Whether it was counted as lent, because its dma-buf was on a screen.
  var wasShown = false
  private enum Origin {
    /// The files of `ranges`, and no others, so that memory unplugged meanwhile is not kept.
    case guest(MappedFiles)
    case host(Mapping)
  }

  /// The users of its pages besides screens.
  package private(set) var borrowers: [any Borrower] = []
  /// Runs when a borrower stops using the pages, after the guest has asked for them.
  package var whenFree: (() -> Void)?

  private let origin: Origin
  /// Its bytes for the CPU, mapped at the first read.
  package private(set) lazy var bytes: ByteSource =
    switch origin {
    case .guest(let files): ByteSource(files.windows(of: ranges))
    case .host(let mapping): ByteSource([GuestWindow(mapping: mapping, start: 0, length: mapping.length)])
    }

  init(ranges: [MemfdRange], of memory: GuestMemory, entries: Int, backing: Backing) {
    (self.ranges, origin, self.entries, self.backing) = (
      ranges, .guest(memory.files(of: ranges)), entries, backing
    )
    size = ranges.reduce(0) { $0 + $1.length }
  }

  /// Memory of the host. No quota and no statistics count it, because it is not the guest's.
  package init(host mapping: Mapping, backing: Backing) {
    (ranges, origin, entries, self.backing) = ([], .host(mapping), 0, backing)
    size = UInt64(mapping.length)
  }

  var isOfHost: Bool { if case .host = origin { true } else { false } }

  package var dmabuf: DMABuf? { if case .lent(let dmabuf) = backing { dmabuf } else { nil } }

  // MARK: Borrowers

  package func add(_ borrower: any Borrower) { borrowers.append(borrower) }

  /// The borrower no longer uses the pages.
  package func remove(_ borrower: any Borrower) {
    borrowers.removeAll { $0 === borrower }
    whenFree?()
  }
}

/// A user of a buffer's pages that is not a screen, such as a lent buffer.
package protocol Borrower: AnyObject {
  /// The guest wants the pages back. When the borrower no longer uses them, it calls `Buffer.remove`.
  /// - Parameter isReset: whether the guest's driver starts anew, and waits for nobody.
  /// - Returns: how long the guest waits for this borrower; nil if the borrower leaves that to the device.
  func pagesAreWanted(isReset: Bool) -> Instant?
  /// The guest has the pages again.
  func pagesAreGone()
}
