import Buffers
import CBench
import Guest
import Linux
import Pictures
import SystemPackage

/// What a copy costs where the guest's pages cannot be lent: `ByteSource.copyRows`.
///
/// The peer is one `memcpy` in C for each piece that lies in one place in both memories: it copies the same
/// bytes from and to the same files, through mappings of its own, and knows the pieces beforehand.
func benchShadow() throws {
  heading("shadow: a copy of what a guest drew")
  try measure("1920x1080, pages apart", Picture(1920, 1080, isApart: true))
  try measure("1920x1080, one piece", Picture(1920, 1080, isApart: false))
  try measure("3840x2160, pages apart", Picture(3840, 2160, isApart: true))
  try measure("640x480 of 1920x1080, pages apart", Picture(1920, 1080, isApart: true, part: (640, 480)))
  try measure("640x480 of 1920x1080, one piece", Picture(1920, 1080, isApart: false, part: (640, 480)))
}

private let goal = 1.1

private func measure(_ name: String, _ picture: Picture) throws {
  try picture.compare()
  var pairs = Pairs()
  pairs.measure(101, { nanoseconds(picture.copy) / 1000 }, { nanoseconds(picture.copyInC) / 1000 })
  row(
    name, pairs.ours.median, "us", peer: "C, memcpy", pairs.theirs.median, ratio: pairs.ratio,
    "goal \(fixed(goal, 2))" + (pairs.ratio <= goal ? "" : "  MISSED"))
}

/// An image in a guest's memory, and room for a copy of it.
@safe private final class Picture {
  private let width, height, left, top, columns, rows: Int
  private let stride: Int
  private let source: ByteSource
  private let target: Mapping
  private let pieces: [cb_piece]
  private let (plainSource, plainTarget): (UnsafeMutableRawPointer, UnsafeMutableRawPointer)
  private let length: Int

  /// - Parameter part: a rectangle in the middle of it, of which each row is copied; all of it by default.
  init(_ width: Int, _ height: Int, isApart: Bool, part: (columns: Int, rows: Int)? = nil) throws {
    (self.width, self.height, stride) = (width, height, width * 4)
    (columns, rows) = part ?? (width, height)
    (left, top) = ((width - columns) / 2, (height - rows) / 2)
    let page = Int(systemPageSize)
    let length = (width * 4 * height + page - 1) / page * page
    self.length = length
    let memfd = try Memfd.create(name: "bench-guest", size: UInt64(length), seals: .shrink)
    let copy = try Memfd.create(name: "bench-copy", size: UInt64(length), seals: .shrink)
    target = try copy.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: length, writable: true)
    }
    let memory = try GuestMemory([
      MemoryRegion(
        guestAddress: GuestAddress(0), userAddress: 0,
        backing: MemfdRange(memfd: memfd, offset: 0, length: UInt64(length)))
    ])
    // The pages backwards, so that none joins the one before.
    let starts = isApart ? (0..<length / page).reversed().map { $0 * page } : [0]
    let size = length / starts.count
    let ranges = starts.map { MemfdRange(memfd: memfd, offset: UInt64($0), length: UInt64(size)) }
    source = ByteSource(memory.files(of: ranges).windows(of: ranges))
    pieces = Self.pieces(starts, size, rows, columns * 4, stride * top + left * 4, stride)

    guard
      let plainSource = unsafe memfd.withDescriptor({ fd in unsafe fd.withRaw { unsafe cb_map($0, length) } }
      ),
      let plainTarget = unsafe copy.withDescriptor({ fd in unsafe fd.withRaw { unsafe cb_map($0, length) } })
    else { throw WrongResult("a memfd can be mapped in C") }
    unsafe (self.plainSource, self.plainTarget) = (plainSource, plainTarget)
    let numbers = try memfd.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: length, writable: true)
    }
    for place in Swift.stride(from: 0, to: length, by: 4) {
      let number: UInt32 = UInt32(place) &* 2_654_435_761
      numbers.store(number, at: place)
    }
  }

  deinit {
    unsafe cb_unmap(plainSource, length)
    unsafe cb_unmap(plainTarget, length)
  }

  /// What lies in one place of the guest's memory and of the copy; rows without a gap are one.
  private static func pieces(
    _ starts: [Int], _ size: Int, _ rows: Int, _ bytes: Int, _ first: Int, _ stride: Int
  ) -> [cb_piece] {
    var pieces: [cb_piece] = []
    let isWhole = bytes == stride
    for row in 0..<(isWhole ? 1 : rows) {
      var here = first + row * stride
      let end = here + (isWhole ? bytes * rows : bytes)
      while here < end {
        let count = min(size - here % size, end - here)
        pieces.append(cb_piece(from: starts[here / size] + here % size, to: here, length: count))
        here += count
      }
    }
    return pieces
  }

  func copy() {
    let start = stride * top + left * 4
    source.copyRows(
      rows, of: columns * 4, from: start, stride: stride, to: target, at: start, targetStride: stride)
  }

  func copyInC() { unsafe cb_copy(plainTarget, plainSource, pieces, pieces.count) }

  /// That both write the same.
  func compare() throws {
    copy()
    let ours = target.bytes(at: 0, count: length)
    target.store([UInt8](repeating: 0, count: length))
    copyInC()
    try check(ours == target.bytes(at: 0, count: length), "the copy and memcpy write the same")
    try check(ours.contains { $0 != 0 }, "something was copied")
  }
}

extension Mapping {
  fileprivate func store(_ bytes: [UInt8]) { unsafe store(bytes.span.bytes, at: 0) }
}
