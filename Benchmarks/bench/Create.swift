import CBench
import Linux
import SystemPackage
import Udmabuf

/// What `UdmabufDevice.create` costs over the ioctl that it ends in: its checks, its list, its `DMABuf`.
///
/// The peer fills a new list in C from plain numbers and makes the same call, over the same pages, by turns.
/// Closing the dma-buf is the kernel's work alone, and is not in the figures.
func benchCreate() throws {
  let device: UdmabufDevice
  do { device = try UdmabufDevice() } catch {
    print()
    print("create: no \(UdmabufDevice.path) here (\(error)): measured in the test host, by qemu/bench")
    return
  }
  let raw = try FD.open(UdmabufDevice.path, writable: true)
  heading("create: a dma-buf of pages that are in memory, until the descriptor is there")
  try withListLimit(131072) {
    for pages in [1, 16, 256, 768, 2025, 8100, 131072] {
      if pages > 1 {
        try measure("create, 1 range of \(pages) pages", device, raw, pages: pages, isScattered: false)
      }
      try measure(
        "create, \(pages) scattered page\(pages == 1 ? "" : "s")", device, raw, pages: pages,
        isScattered: true)
    }
  }
}

private let goal = 1.05

private func measure(
  _ name: String, _ device: UdmabufDevice, _ raw: borrowing FD, pages: Int, isScattered: Bool
) throws {
  let page = systemPageSize
  let size = UInt64(pages) * page
  let memfd = try Memfd.create(name: "bench", size: size, seals: .shrink)
  let mapping = try memfd.withDescriptor { fd throws(Errno) in
    try Mapping(fd, offset: 0, length: Int(size), writable: true)
  }
  for index in 0..<pages { mapping.store(UInt8(1), at: index * Int(page)) }
  // Backwards, so that none joins the one before.
  let ranges =
    isScattered
    ? (0..<UInt64(pages)).reversed().map { MemfdRange(memfd: memfd, offset: $0 * page, length: page) }
    : [MemfdRange(memfd: memfd, offset: 0, length: size)]
  let number = memfd.withDescriptor { $0.withRaw { UInt32($0) } }
  let plain = ranges.map { cb_range(file: number, offset: $0.offset, length: $0.length) }

  func ours() throws -> Double {
    var made: DMABuf? = nil
    let time = try nanoseconds { made = try device.create(ranges) }
    let told = try made!.withDescriptor { fd throws(Errno) in try fd.seekToEnd() }
    try check(told == size && made!.size == size, "the dma-buf has \(size) bytes")
    return time / 1000
  }
  func theirs() throws -> Double {
    var made: CInt = -1
    let time = raw.withRaw { raw in nanoseconds { made = unsafe cb_create(raw, plain, plain.count) } }
    try check(made >= 0, "the ioctl works from C")
    let told = try FD(adopting: made).seekToEnd()
    try check(told == size, "the dma-buf has \(size) bytes from C too")
    return time / 1000
  }
  for _ in 0..<10 { _ = (try ours(), try theirs()) }
  var pairs = Pairs()
  try pairs.measure(101, ours, theirs)
  row(
    name, pairs.ours.median, "us", peer: "C, UDMABUF_CREATE_LIST", pairs.theirs.median, ratio: pairs.ratio,
    "goal \(fixed(goal, 2))" + (pairs.ratio <= goal ? "" : "  MISSED"))
}

/// Raises the kernel's limit where it is lower, and puts it back.
func withListLimit(_ items: UInt64, _ body: () throws -> Void) throws {
  let old = UdmabufLimits.current().items
  if old >= items { return try body() }
  try setListLimit(items)
  defer { try? setListLimit(old) }
  try body()
}

private func setListLimit(_ items: UInt64) throws {
  let file = try FD.open(UdmabufLimits.directory.appending("list_limit"), writable: true)
  unsafe try file.write(Array("\(items)".utf8).span.bytes)
}
