package import Buffers
package import Linux

/// Memory of the host that a guest may map and show.
package final class HostOffer {
  /// By which the guest asks for it (`blob_id`); not 0.
  package let id: UInt64
  /// In bytes, whole pages. A blob of it is of exactly this size.
  package var size: UInt64 { buffer.size }
  /// How it is shown, and read.
  let buffer: Buffer
  let isWritable: Bool
  /// So many blobs of it exist at most at once.
  let limit: Int
  var uses = 0
  private let fd: FD

  /// - Parameters:
  ///   - fd: a memfd or a dma-buf, of which the front end gets a descriptor of its own with each mapping: it can
  ///     read and write all of it, whatever `isWritable` allows the guest.
  ///   - limit: so many blobs of it may exist at once.
  package init(id: UInt64, _ fd: consuming FD, _ buffer: Buffer, isWritable: Bool, limit: Int) {
    precondition(buffer.size > 0 && buffer.size % systemPageSize == 0, "whole pages are mapped")
    (self.id, self.buffer, self.isWritable, self.limit) = (id, buffer, isWritable, limit)
    self.fd = fd
  }

  func withDescriptor<Failure: Error>(_ body: (borrowing FD) throws(Failure) -> Void) throws(Failure) {
    try body(fd)
  }
}

/// The region in which memory of the host is mapped into the guest, and what there is to be mapped.
package struct HostMemory {
  /// VIRTIO_GPU_SHM_ID_HOST_VISIBLE: the region's number.
  package static let region: UInt8 = 1

  /// In bytes, whole pages.
  package let size: UInt64
  package let offers: [HostOffer]

  package init(size: UInt64, offers: [HostOffer]) {
    precondition(size > 0 && size % systemPageSize == 0, "the region has whole pages")
    (self.size, self.offers) = (size, offers)
  }
}

/// Which parts of a region are taken. Where something goes is the guest's choice.
struct SharedRegion: Equatable {
  let size: UInt64
  /// In order; no two touch each other.
  private(set) var free: [Range<UInt64>]

  init(size: UInt64) { (self.size, free) = (size, [0..<size]) }

  /// - Returns: false if a part of it is taken or outside, or it is empty: then nothing has changed.
  mutating func reserve(_ range: Range<UInt64>) -> Bool {
    guard !range.isEmpty, let index = place(of: range.lowerBound), range.upperBound <= free[index].upperBound
    else { return false }
    let whole = free[index]
    let rest = [whole.lowerBound..<range.lowerBound, range.upperBound..<whole.upperBound].filter {
      !$0.isEmpty
    }
    free.replaceSubrange(index...index, with: rest)
    return true
  }

  /// Gives back what was reserved.
  mutating func release(_ range: Range<UInt64>) {
    let next = free.firstIndex { $0.lowerBound >= range.upperBound } ?? free.count
    precondition(
      next == 0 || free[next - 1].upperBound <= range.lowerBound, "what is given back was reserved")
    var (whole, first, end) = (range, next, next)
    if next > 0, free[next - 1].upperBound == range.lowerBound {
      whole = free[next - 1].lowerBound..<whole.upperBound
      first = next - 1
    }
    if next < free.count, free[next].lowerBound == range.upperBound {
      whole = whole.lowerBound..<free[next].upperBound
      end = next + 1
    }
    free.replaceSubrange(first..<end, with: [whole])
  }

  /// The free part that holds this place.
  private func place(of offset: UInt64) -> Int? { free.firstIndex { $0.contains(offset) } }
}

/// A blob of the host's memory in the guest's region.
final class HostMapping {
  enum State {
    /// The front end was asked for it.
    case coming
    /// The same, but it is not wanted any more: it is to go as soon as it is there.
    case unwanted
    case there
    /// The front end was asked to take it away.
    case going
  }

  let range: Range<UInt64>
  var state = State.coming
  /// The answers that wait until it is gone, and what they are if the front end could not take it away.
  private var errands: [(Errand, failure: Response)] = []

  init(_ range: Range<UInt64>) { self.range = range }

  func waitUntilGone(_ errand: Errand, failure: Response) { errands.append((errand, failure)) }

  func isGone(_ isDone: Bool) {
    for (errand, failure) in errands { errand.finish(isDone ? .ok : failure) }
    errands = []
  }

  var length: UInt64 { range.upperBound - range.lowerBound }
}
