internal import Guest
package import Linux
package import Udmabuf

/// A piece of guest memory, or of memory that the guest shares with the host, that the graphics stack may see.
package final class Buffer {
  package enum Backing {
    /// A dma-buf over the pages themselves, nothing copied.
    case lent(DMABuf)
    /// What is shown is a copy, and why.
    case shadow(ShadowCause)
  }

  /// The ranges that it is made of, as few as can be.
  package let ranges: [MemfdRange]
  /// How many entries the guest's page list had.
  package let entries: Int
  /// In bytes. Whole pages if it is lent.
  package let size: UInt64
  package internal(set) var backing: Backing
  /// It was counted as lent: its dma-buf has been on a screen.
  var wasShown = false
  private enum Origin {
    /// What `ranges` lie in, and no more: memory that is unplugged meanwhile is not kept.
    case guest(MappedFiles)
    case host(Mapping)
  }

  /// The users of its pages that are no screens.
  package private(set) var borrowers: [any Borrower] = []
  /// Runs when a borrower uses the pages no longer, once the guest wants them back.
  package var whenFree: (() -> Void)?

  private let origin: Origin
  /// Its bytes, for the CPU; made when they are first read.
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

  /// Memory of the host. Nothing of it is the guest's, so that no quota and no statistics count it.
  package init(host mapping: Mapping, backing: Backing) {
    (ranges, origin, entries, self.backing) = ([], .host(mapping), 0, backing)
    size = UInt64(mapping.length)
  }

  var isOfHost: Bool { if case .host = origin { true } else { false } }

  package var dmabuf: DMABuf? { if case .lent(let dmabuf) = backing { dmabuf } else { nil } }

  // MARK: Borrowers

  package func add(_ borrower: any Borrower) { borrowers.append(borrower) }

  /// It uses the pages no longer.
  package func remove(_ borrower: any Borrower) {
    borrowers.removeAll { $0 === borrower }
    whenFree?()
  }
}

/// Uses the pages of a buffer beside the screens that show it, as whoever lends it on does.
package protocol Borrower: AnyObject {
  /// The guest wants the pages back. A borrower that uses them no longer calls `Buffer.remove`.
  /// - Parameter isReset: its driver starts anew, and waits for nobody.
  /// - Returns: until when the guest waits for this one at most; nil if it leaves that to the device.
  func pagesAreWanted(isReset: Bool) -> Instant?
  /// The guest has them now.
  func pagesAreGone()
}
