package import Guest
package import Linux

/// The RAM of a pretended guest: real memfds, laid out at guest-physical addresses as the test wants.
///
/// What a driver does goes through mappings of its own, so that the code under test is not used to set up
/// its own tests; `memory` is the device's view of the same files.
package final class GuestRAM {
  /// A piece of RAM: `length` bytes of file number `file` from `offset` on, at `address`.
  package struct Block: Sendable {
    package var address: UInt64
    package var length: UInt64
    package var file: Int
    package var offset: UInt64

    package init(at address: UInt64, length: UInt64, file: Int = 0, offset: UInt64 = 0) {
      self.address = address
      self.length = length
      self.file = file
      self.offset = offset
    }
  }

  /// The front end has guest address 0 here, in its own address space.
  package static let userBase: UInt64 = 0x7f00_0000_0000

  package let blocks: [Block]
  package let files: [Memfd]
  private let mappings: [Mapping]

  /// Makes as many memfds as the blocks name, each as long as they need, sealed as QEMU seals them.
  package convenience init(_ blocks: [Block], seals: Seals = [.shrink, .grow, .seal]) throws {
    try self.init(blocks) { file, size in
      try Memfd.create(name: "guest-ram-\(file)", size: size, seals: seals)
    }
  }

  /// - Parameter makeFile: returns the file of that number, as long as it is told, in bytes.
  package init(_ blocks: [Block], makeFile: (Int, UInt64) throws -> Memfd) throws {
    self.blocks = blocks
    var files: [Memfd] = []
    for file in 0...(blocks.map(\.file).max() ?? 0) {
      let end = blocks.filter { $0.file == file }.map { $0.offset + $0.length }.max() ?? 0
      files.append(try makeFile(file, end))
    }
    self.files = files
    mappings = try blocks.map { block in
      try files[block.file].withDescriptor {
        try Mapping($0, offset: block.offset, length: Int(block.length), writable: true)
      }
    }
    let last = blocks.indices.max { blocks[$0].length < blocks[$1].length }!
    heap = blocks[last].address + min(0x1000, blocks[last].length)
    heapEnd = blocks[last].address + blocks[last].length
  }

  /// One block at address 0.
  package convenience init(size: UInt64 = 16 << 20) throws {
    try self.init([Block(at: 0, length: size)])
  }

  /// The shape that QEMU gives a 4 GiB guest with a VGA device, but smaller: three regions over one file, of
  /// which the third stands apart at 4 GiB.
  package static func likeQEMU(low: UInt64 = 8 << 20, high: UInt64 = 8 << 20) throws -> GuestRAM {
    try GuestRAM([
      Block(at: 0, length: 0xa0000),
      Block(at: 0xc0000, length: low - 0xc0000, offset: 0xc0000),
      Block(at: 0x1_0000_0000, length: high, offset: low),
    ])
  }

  /// A block as the device sees it.
  package func region(_ block: Block) throws(GuestMemoryError) -> MemoryRegion {
    try MemoryRegion(
      guestAddress: GuestAddress(block.address), userAddress: Self.userBase + block.address,
      backing: MemfdRange(memfd: files[block.file], offset: block.offset, length: block.length))
  }

  /// The device's view of all blocks.
  package private(set) lazy var memory: GuestMemory = try! GuestMemory(blocks.map { try! region($0) })

  // MARK: The driver's access

  /// Where an address is mapped. It traps outside the RAM: the test is wrong then.
  func place(_ address: UInt64, _ length: Int) -> (mapping: Mapping, offset: Int) {
    for (block, mapping) in zip(blocks, mappings) {
      if address >= block.address, address - block.address + UInt64(length) <= block.length {
        return (mapping, Int(address - block.address))
      }
    }
    preconditionFailure("\(hex(address))+\(length) is not in one block of the guest's RAM")
  }

  package func write(_ bytes: [UInt8], at address: UInt64) {
    let (mapping, offset) = place(address, bytes.count)
    unsafe mapping.store(bytes.span.bytes, at: offset)
  }

  package func write<Number: FixedWidthInteger & BitwiseCopyable>(_ number: Number, at address: UInt64) {
    let (mapping, offset) = place(address, MemoryLayout<Number>.size)
    mapping.store(number, at: offset)
  }

  package func read(_ count: Int, at address: UInt64) -> [UInt8] {
    let (mapping, offset) = place(address, count)
    return mapping.bytes(at: offset, count: count)
  }

  package func number<Number: FixedWidthInteger & BitwiseCopyable>(
    _: Number.Type = Number.self, at address: UInt64
  ) -> Number {
    let (mapping, offset) = place(address, MemoryLayout<Number>.size)
    return mapping.load(Number.self, at: offset)
  }

  // MARK: A heap for the driver

  private var heap: UInt64
  private let heapEnd: UInt64
  private var free: [UInt64: [UInt64]] = [:]

  private func rounded(_ length: Int) -> UInt64 {
    var size: UInt64 = 16
    while size < UInt64(length) { size *= 2 }
    return size
  }

  /// Memory for a ring or a message, in the longest block, aligned to its length rounded up to a power of
  /// two (to a page at most), and zero when it is first used.
  package func allocate(_ length: Int) -> UInt64 {
    let size = rounded(length)
    if let address = free[size]?.popLast() { return address }
    let alignment = min(size, 4096)
    let address = (heap + alignment - 1) / alignment * alignment
    precondition(address + size <= heapEnd, "the pretended guest is out of memory")
    heap = address + size
    return address
  }

  /// Gives memory back for another `allocate`.
  package func free(_ address: UInt64, _ length: Int) { free[rounded(length), default: []].append(address) }
}
