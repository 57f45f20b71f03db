import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Udmabuf

@Suite struct MemfdTests {
  @Test("a memfd has the size and the seals that were asked for") func sizeAndSeals() throws {
    let memfd = try Memfd.create(name: "size", size: 3 * systemPageSize, seals: [.shrink, .grow])
    #expect(memfd.status.size == 3 * systemPageSize)
    #expect(try memfd.currentSize() == 3 * systemPageSize)
    #expect(try memfd.seals() == [.shrink, .grow])
    #expect(throws: Errno.notPermitted) { try memfd.withDescriptor { try resize($0, 0) } }
    try memfd.add(.seal)
    #expect(throws: Errno.notPermitted) { try memfd.add(.write) }
    #expect(try memfd.seals().description == "SEAL|SHRINK|GROW")
    #expect(Seals().description == "none")
  }

  @Test("a memfd of an impossible size is refused, and another file has no seals") func refusals() throws {
    #expect(throws: Errno.fileTooLarge) { try Memfd.create(name: "huge", size: .max) }
    #expect(throws: Errno.invalidArgument) {
      try Memfd.create(name: "odd", size: 4096, pages: .huge(3 << 20))
    }
    let file = try Memfd(adopting: FD.open("/proc/self/exe", writable: false))
    #expect(throws: Errno.invalidArgument) { try file.seals() }
  }

  @Test("ranges are equal only within one memfd") func rangesAreEqualWithinOneMemfdOnly() throws {
    let (a, b) = (try Memfd.create(name: "a", size: 8192), try Memfd.create(name: "b", size: 8192))
    let range = MemfdRange(memfd: a, offset: 4096, length: 4096)
    #expect(range == MemfdRange(memfd: a, offset: 4096, length: 4096))
    #expect(range != MemfdRange(memfd: b, offset: 4096, length: 4096))
    #expect(range.description == "0x1000:0x1000 of memfd inode \(a.status.inode)")
  }
}

@Suite struct FDTests {
  /// The other end of a socket sees that the last descriptor is gone.
  @Test("a descriptor closes with its owner") func closesWithItsOwner() throws {
    try UnixSocket.pair { a, b in
      var bytes: [UInt8] = []
      var descriptors = ReceivedDescriptors()
      let copy = try a.fd.duplicate()
      end(a)
      #expect(throws: Errno.wouldBlock) {
        _ = try b.receive(into: &bytes, upTo: 1, descriptors: &descriptors)
      }
      end(copy)
      // A process that another test starts just then has it for a moment longer.
      try waitUntil("the end") { try b.fd.isReadable(within: .zero) }
      #expect(try b.receive(into: &bytes, upTo: 1, descriptors: &descriptors) == 0)
    }
  }

  private func end(_: consuming FD) {}
  private func end(_: consuming UnixSocket) {}

  @Test("an inherited descriptor that is not open throws at its first use") func inheritedMustBeOpen() {
    #expect(throws: Errno.badFileDescriptor) { _ = try FD.inherited(1 << 20).status() }
  }

  @Test("a descriptor that is given up stays open") func relinquishKeepsItOpen() throws {
    let raw = try EventFD().fd.duplicate().relinquish()
    let again = FD(adopting: raw)
    #expect(try again.status().isSocket == false)
  }

  @Test("a duplicate is the same file") func duplicateIsTheSameFile() throws {
    let memfd = try Memfd.create(name: "dup", size: 4096)
    let copy = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    #expect(try copy.status() == memfd.status)
  }

  @Test("bytes that were written can be read from any offset") func readsAndWritesWhole() throws {
    let memfd = try Memfd.create(name: "text", size: 0)
    let text = Array("0123456789".utf8)
    try memfd.withDescriptor { fd in
      try fd.write(unsafe text.span.bytes)
      #expect(try fd.seekToEnd() == 10)
      #expect(try fd.read(upTo: 4) == [])
      #expect(try fd.read(upTo: 4, at: 3) == Array("3456".utf8))
      #expect(try fd.read(upTo: 4, at: 8) == Array("89".utf8))
    }
  }

  @Test("a read gives its count, and leaves the buffer at the size of the limit")
  func readIntoKeepsItsBuffer() throws {
    let event = try EventFD()
    var buffer: [UInt8] = []
    #expect(throws: Errno.wouldBlock) { try event.fd.read(into: &buffer, upTo: 64) }
    event.signal()
    #expect(try event.fd.read(into: &buffer, upTo: 64) == 8)
    #expect(buffer.count == 64 && buffer[0] == 1)
  }
}

@Suite struct MappingTests {
  private func mapping(offset: UInt64 = 0, length: Int = 8192) throws -> (Memfd, Mapping) {
    let memfd = try Memfd.create(name: "map", size: 16384)
    return (
      memfd, try memfd.withDescriptor { try Mapping($0, offset: offset, length: length, writable: true) }
    )
  }

  @Test("a file has what is stored in its mapping, at the mapping's offset") func seesTheFile() throws {
    let (memfd, mapping) = try mapping(offset: 100)
    mapping.store(UInt32(0x1122_3344), at: 4)
    #expect(try memfd.withDescriptor { try $0.read(upTo: 4, at: 104) } == [0x44, 0x33, 0x22, 0x11])
    #expect(mapping.load(UInt32.self, at: 4) == 0x1122_3344)
    #expect(mapping.load(UInt16.self, at: 5) == 0x2233)
  }

  @Test("the last bytes of a mapping can be stored and loaded") func bytesAtBothEnds() throws {
    let (_, mapping) = try mapping()
    mapping.store(unsafe ([1, 2, 3] as [UInt8]).span.bytes, at: 8189)
    #expect(mapping.bytes(at: 8188, count: 4) == [0, 1, 2, 3])
    #expect(mapping.bytes(at: 8192, count: 0) == [])
    var all: [UInt8] = [9]
    mapping.append(to: &all, from: 8190, count: 2)
    #expect(all == [9, 2, 3])
  }

  @Test("a ring index is loaded as it was stored") func ringIndices() throws {
    let (_, mapping) = try mapping()
    mapping.storeRelease(0xfffe, at: 2)
    #expect(mapping.loadAcquire(at: 2) == 0xfffe)
    #expect(mapping.load(UInt16.self, at: 2) == 0xfffe)
  }

  @Test("access outside the mapping traps", arguments: [(-1, 1), (8192, 1), (8190, 4), (0, 8193)])
  func outsideTraps(_ offset: Int, _ count: Int) async {
    await #expect(processExitsWith: .failure) { [offset, count] in
      let memfd = try Memfd.create(name: "map", size: 16384)
      let mapping = try memfd.withDescriptor { try Mapping($0, offset: 0, length: 8192, writable: false) }
      _ = mapping.bytes(at: offset, count: count)
    }
  }

  @Test("a mapping is left out of core files")
  func isNotDumped() throws {
    let memfd = try Memfd.create(name: "secret", size: 8192)
    let mapping = try memfd.withDescriptor { try Mapping($0, offset: 4096, length: 100, writable: true) }
    let regions = try readText("/proc/self/smaps", upTo: 1 << 24).split(separator: "\n")
    let first = try #require(regions.firstIndex { $0.contains("/memfd:secret") })
    let flags = regions[first...].first { $0.hasPrefix("VmFlags:") }
    // Its name for MADV_DONTDUMP.
    #expect(flags?.split(separator: " ").contains("dd") == true, "\(flags ?? "")")
    _ = mapping.length
  }

  @Test("a mapping of no bytes is refused") func refusesNoLength() throws {
    let memfd = try Memfd.create(name: "map", size: 4096)
    #expect(throws: Errno.invalidArgument) {
      try memfd.withDescriptor { _ = try Mapping($0, offset: 0, length: 0, writable: false) }
    }
  }
}
