import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Udmabuf

/// What the real device does.
@Suite(.testHost, .serialized) struct UdmabufDeviceTests {
  private let page = systemPageSize

  private func memfd(pages: UInt64, seals: Seals = .shrink) throws -> Memfd {
    try Memfd.create(name: "udmabuf", size: pages * page, seals: seals)
  }

  private func map(_ memfd: Memfd) throws -> Mapping {
    try memfd.withDescriptor { try Mapping($0, offset: 0, length: Int(memfd.status.size), writable: true) }
  }

  @Test("a dma-buf of one range and its memfd see each other's writes") func oneRangeInBothDirections() throws
  {
    let memfd = try memfd(pages: 6)
    let memory = try map(memfd)
    let dmabuf = try UdmabufDevice().create(MemfdRange(memfd: memfd, offset: 2 * page, length: 3 * page))
    #expect(dmabuf.size == 3 * page)
    let view = try dmabuf.map(writable: true)
    try dmabuf.beginCPUAccess([.read, .write])
    memory.store(UInt64(0x1122_3344_5566_7788), at: Int(3 * page) + 8)
    #expect(view.load(UInt64.self, at: Int(page) + 8) == 0x1122_3344_5566_7788)
    view.store(UInt64(42), at: Int(3 * page) - 8)
    #expect(memory.load(UInt64.self, at: Int(5 * page) - 8) == 42)
    try dmabuf.endCPUAccess([.read, .write])
  }

  @Test("a dma-buf has scattered pages in the order of the list", arguments: [1, 2, 768, 1024])
  func scatteredPages(_ count: Int) throws {
    let memfd = try memfd(pages: UInt64(count))
    let memory = try map(memfd)
    let dmabuf = try UdmabufDevice().create(scatteredRanges(of: memfd, pages: count))
    let view = try dmabuf.map(writable: true)
    for index in 0..<count { memory.store(UInt32(index) * 3 + 1, at: index * Int(page) + 4) }
    for index in 0..<count {
      let place = (count - 1 - index) * Int(page)
      #expect(view.load(UInt32.self, at: place + 4) == UInt32(index) * 3 + 1)
      view.store(UInt32(index) * 5 + 2, at: place + Int(page) - 4)
    }
    for index in 0..<count {
      #expect(memory.load(UInt32.self, at: index * Int(page) + Int(page) - 4) == UInt32(index) * 5 + 2)
    }
  }

  @Test("a dma-buf can have ranges of two memfds") func rangesOfTwoMemfds() throws {
    let (a, b) = (try memfd(pages: 2), try memfd(pages: 3, seals: [.shrink, .grow, .seal]))
    let dmabuf = try UdmabufDevice().create([
      MemfdRange(memfd: a, offset: page, length: page), MemfdRange(memfd: b, offset: 0, length: 2 * page),
    ])
    try map(a).store(UInt32(1), at: Int(page))
    try map(b).store(UInt32(2), at: Int(page))
    let view = try dmabuf.map()
    #expect(view.load(UInt32.self, at: 0) == 1 && view.load(UInt32.self, at: 2 * Int(page)) == 2)
  }

  @Test("an open device follows the kernel's list_limit when it changes") func listLimit() throws {
    let memfd = try memfd(pages: 2025)
    let ranges = scatteredRanges(of: memfd, pages: 2025)
    // Opened before the limit changes, as a process that runs on does.
    let device = try UdmabufDevice()
    try TestHost.withUdmabufLimits(items: 1024) {
      #expect(device.limits.items == 1024)
      #expect(throws: UdmabufError.tooManyItems(count: 2025, limit: 1024)) { try device.create(ranges) }
      #expect(throws: UdmabufError.tooManyItems(count: 1025, limit: 1024)) {
        try device.create(Array(ranges[..<1025]))
      }
    }
    try TestHost.withUdmabufLimits(items: 2025) {
      let size = try device.create(ranges).size
      #expect(size == 2025 * page)
    }
  }

  @Test("the check follows the kernel's size_limit_mb when it changes") func sizeLimit() throws {
    let memfd = try memfd(pages: 65 << 20 / page)
    let device = try UdmabufDevice()
    let (most, more) = (UInt64(64 << 20), UInt64(65 << 20))
    try TestHost.withUdmabufLimits(megabytes: 64) {
      let size = try device.create(MemfdRange(memfd: memfd, offset: page, length: most)).size
      #expect(size == most)
      #expect(throws: UdmabufError.tooManyBytes(bytes: most + page, limit: most)) {
        try device.create(MemfdRange(memfd: memfd, offset: 0, length: most + page))
      }
      let half = MemfdRange(memfd: memfd, offset: 0, length: most / 2 + page)
      #expect(throws: UdmabufError.tooManyBytes(bytes: most + 2 * page, limit: most)) {
        try device.create([half, half])
      }
    }
    try TestHost.withUdmabufLimits(megabytes: 65) {
      let size = try device.create(MemfdRange(memfd: memfd, offset: 0, length: more)).size
      #expect(size == more)
    }
  }

  /// What the check refuses is what the kernel refuses, and nothing else.
  @Test("the check and the kernel refuse the same seals", arguments: sealCases)
  func sealsAsTheKernelSeesThem(_ seals: Seals, accepted: Bool) throws {
    let device = try UdmabufDevice()
    let range = MemfdRange(memfd: try memfd(pages: 1, seals: seals), offset: 0, length: page)
    #expect(((try? device.create(range)) != nil) == accepted)
    #expect(((try? createUnchecked(range)) != nil) == accepted)
  }

  @Test("the kernel refuses the lists that the check refuses") func kernelRefusesWhatTheCheckRefuses() throws
  {
    let device = try UdmabufDevice()
    let memfd = try memfd(pages: 2)
    for (offset, length) in [(UInt64(0), UInt64(0)), (1, page), (0, page + 1), (page, 2 * page)] {
      #expect(throws: Errno.invalidArgument) {
        try createUnchecked(MemfdRange(memfd: memfd, offset: offset, length: length))
      }
    }
    let file = try Memfd(adopting: FD.open("/proc/self/exe", writable: false))
    #expect(throws: Errno(rawValue: 77)) {  // EBADFD
      try createUnchecked(MemfdRange(memfd: file, offset: 0, length: page))
    }
    #expect(throws: UdmabufError.notMemfd(item: 0)) {
      try device.create(MemfdRange(memfd: file, offset: 0, length: page))
    }
  }

  @Test("a dma-buf has a name, an inode and an exporter") func nameInodeAndExporter() throws {
    let device = try UdmabufDevice()
    let range = MemfdRange(memfd: try memfd(pages: 1), offset: 0, length: page)
    let (a, b) = (try device.create(range), try device.create([range]))
    #expect(a.inode != b.inode)
    #expect(try a.exporter() == "udmabuf")
    #expect(try a.name() == nil)
    try a.setName("guest 1, buffer 7")
    #expect(try a.name() == "guest 1, buffer 7")
    try a.setName(String(repeating: "n", count: 31))
    #expect(throws: Errno.invalidArgument) { try a.setName(String(repeating: "n", count: 32)) }
    let copy = try DMABuf(adopting: a.withDescriptor { fd throws(Errno) in try fd.duplicate() })
    #expect(copy.inode == a.inode && copy.size == a.size)
    #expect(try copy.name() == String(repeating: "n", count: 31))
  }

  @Test("a dma-buf outlives its memfd") func outlivesTheMemfd() throws {
    let dmabuf: DMABuf
    do {
      let memfd = try memfd(pages: 1)
      try map(memfd).store(UInt32(7), at: 0)
      dmabuf = try UdmabufDevice().create(MemfdRange(memfd: memfd, offset: 0, length: page))
    }
    #expect(try dmabuf.map().load(UInt32.self, at: 0) == 7)
  }

  @Test("the end of an access by the CPU is refused without its beginning") func cpuAccessComesInPairs()
    throws
  {
    let dmabuf = try UdmabufDevice().create(MemfdRange(memfd: try memfd(pages: 1), offset: 0, length: page))
    #expect(throws: Errno.invalidArgument) { try dmabuf.endCPUAccess(.read) }
    try dmabuf.beginCPUAccess(.read)
    try dmabuf.endCPUAccess(.read)
  }

  @Test("a dma-buf exports a signalled sync_file, and imports it, but no other descriptor") func syncFiles()
    throws
  {
    let device = try UdmabufDevice()
    let range = MemfdRange(memfd: try memfd(pages: 1), offset: 0, length: page)
    let (a, b) = (try device.create(range), try device.create(range))
    let fence = try a.exportSyncFile([.read, .write])
    // Nothing is pending, so the fence has signalled: it reads as ready.
    let loop = try EventLoop()
    var signalled = false
    let token = try loop.add(fence) { _ in signalled = true }
    try loop.turn(waiting: .zero)
    #expect(signalled)
    loop.remove(token, fence)
    try b.importSyncFile(fence, .write)
    let event = try EventFD()
    #expect(throws: Errno.invalidArgument) { try b.importSyncFile(event.fd, .write) }
  }

  @Test(
    "a dma-buf has the pages of a memfd of huge pages, in the order of the list",
    arguments: [UInt64(2 << 20), 4096]) func hugePages(
      _ length: UInt64
    ) throws
  {
    let pages: FilePath = "/proc/sys/vm/nr_hugepages"
    let before = try readText(pages)
    try TestHost.write("4", to: pages)
    defer { try? TestHost.write(before, to: pages) }
    let memfd = try Memfd.create(name: "huge", size: 4 << 20, seals: .shrink, pages: .huge(2 << 20))
    let memory = try map(memfd)
    memory.store(UInt32(9), at: (4 << 20) - Int(length) + 4)
    memory.store(UInt32(8), at: 4)
    let dmabuf = try UdmabufDevice().create([
      MemfdRange(memfd: memfd, offset: 4 << 20 - length, length: length),
      MemfdRange(memfd: memfd, offset: 0, length: length),
    ])
    let view = try dmabuf.map()
    #expect(view.load(UInt32.self, at: 4) == 9 && view.load(UInt32.self, at: Int(length) + 4) == 8)
  }

  // MARK: What the kernel refuses all the same

  /// The list of its pages alone is more than the kernel allocates at once (2 GiB).
  @Test("a list that is too long for the kernel to allocate is refused") func noMemory() throws {
    try TestHost.withUdmabufLimits(megabytes: 4 << 20) {
      let pages = UInt64(2 << 40) / page
      let memfd = try memfd(pages: pages)
      let device = try UdmabufDevice()
      for _ in 0..<3 {
        #expect(throws: UdmabufError.kernel(.noMemory)) {
          try device.create(MemfdRange(memfd: memfd, offset: 0, length: pages * page))
        }
      }
      // It takes small ones as before.
      #expect(try device.create(MemfdRange(memfd: memfd, offset: 0, length: page)).size == page)
    }
  }

  /// The dma-buf is made, and then there is no number for it: the kernel must let go of it again.
  @Test("without a free descriptor no dma-buf is made, and the kernel lets go of the memory")
  func noDescriptor() async throws {
    await #expect(processExitsWith: .success) {
      let memfd = try Memfd.create(name: "udmabuf", size: 4 * systemPageSize, seals: .shrink)
      let range = MemfdRange(memfd: memfd, offset: 0, length: 4 * systemPageSize)
      let device = try UdmabufDevice()
      _ = try device.create(range)
      let nofile = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
      var (limit, none) = (rlimit(), rlimit())
      guard unsafe getrlimit(nofile, &limit) == 0 else { exit(2) }
      none.rlim_max = limit.rlim_max
      guard unsafe setrlimit(nofile, &none) == 0 else { exit(3) }
      for _ in 0..<3 {
        do throws(UdmabufError) {
          _ = try device.create(range)
          exit(4)
        } catch { guard error == .kernel(.tooManyOpenFiles) else { exit(5) } }
      }
      guard unsafe setrlimit(nofile, &limit) == 0 else { exit(6) }
      guard try device.create(range).size == 4 * systemPageSize else { exit(7) }
    }
    try waitUntil("no udmabuf is left") {
      try !readText("/sys/kernel/debug/dma_buf/bufinfo").contains("udmabuf")
    }
  }
}
