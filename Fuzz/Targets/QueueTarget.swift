internal import Fixtures
internal import Guest
internal import Linux
internal import Virtio

// A virtqueue whose driver writes anything, anywhere and at any time. What the device takes is compared with a
// walk that reads the same memory by itself.

func fuzzQueue(_ input: inout Input) throws {
  let bench = try QueueBench(&input)
  for _ in 0..<128 where !input.isEmpty { bench.step(&input) }
}

private final class QueueBench {
  /// Two blocks side by side in two files, and one far away.
  private static let blockSize: UInt64 = 16 << 10
  private static let starts: [UInt64] = [0, blockSize, 1 << 32]

  private let ram: GuestRAM
  private let driver: DriverQueue
  private let queue: VirtQueue
  /// VIRTIO_F_INDIRECT_DESC was negotiated.
  private let hasTables: Bool
  private var chain = DescriptorChain()
  /// Chains that were taken and not completed.
  private var taken: [UInt16] = []
  private var completed: UInt16
  private var notified: UInt16

  init(_ input: inout Input) throws {
    ram = try GuestRAM(
      Self.starts.enumerated().map { .init(at: $1, length: Self.blockSize, file: $0) })
    let setup = input.byte()
    let start = setup & 0x10 == 0 ? 0 : input.number(UInt16.self)
    driver = DriverQueue(
      ram, size: 1 << UInt16(setup & 7), eventIndex: setup & 8 != 0, start: start)
    (completed, notified, hasTables) = (start, start, setup & 0x20 == 0)
    queue = try VirtQueue(
      size: driver.size, rings: driver.rings, memory: ram.memory, eventIndex: driver.eventIndex,
      indirect: hasTables,
      start: start)
    refuseMisfits(&input)
  }

  /// Windows that are cut or shifted are refused, and only these.
  private func refuseMisfits(_ input: inout Input) {
    let (part, shift, cut) = (input.byte() % 4, UInt64(input.byte() % 32), Int(input.byte() % 32))
    func window(_ address: UInt64, _ ring: RingPart, _ index: UInt8) -> GuestWindow? {
      let length = VirtQueue.bytes(of: ring, size: driver.size, eventIndex: driver.eventIndex)
      let isChanged = part == index
      return try? ram.memory.window(
        userAddress: GuestRAM.userBase + address + (isChanged ? shift : 0),
        length: isChanged ? max(0, length - cut) : length)
    }
    let alignment: UInt64 = [16, 2, 4, 1][Int(part)]
    let isGood = part == 3 || (cut == 0 && shift % alignment == 0)
    guard let descriptors = window(driver.descriptors, .descriptors, 0),
      let available = window(driver.available, .available, 1), let used = window(driver.used, .used, 2)
    else { return }
    let made = try? VirtQueue(
      size: driver.size, rings: RingWindows(descriptors: descriptors, available: available, used: used),
      memory: ram.memory, eventIndex: driver.eventIndex, start: completed)
    expect((made != nil) == isGood, "a ring with part \(part) shifted by \(shift), cut by \(cut)")
  }

  func step(_ input: inout Input) {
    switch input.byte() % 16 {
    case 0:
      let place = place(&input)
      write(input.take(Int(input.byte() % 64)), at: place)
    case 1, 2: driver.setDescriptor(input.number() & (driver.size - 1), of: &input, place(&input))
    case 3:
      let entry = place(&input) &+ 16 * UInt64(input.byte())
      guard contains(entry, 16) else { return }
      let (address, length, flags, next) = (
        place(&input), length(&input), UInt16(input.byte() & 7), input.byte()
      )
      DriverQueue.writeDescriptor(
        ram, at: entry, address: address, length: length, flags: flags, next: UInt16(next))
    case 4: makeTable(&input)
    case 5: driver.makeAvailable(input.number())
    case 6: driver.makeAvailable(UInt16(input.byte()) & (driver.size - 1))
    case 7: driver.setAvailableIndex(input.number())
    case 8, 9, 10: take()
    case 11: read(&input)
    case 12: answer(&input)
    case 13: complete(&input)
    case 14:
      if input.byte() & 1 == 0 { queue.suspendKicks() } else { checkResume() }
    default: move(&input)
    }
  }

  // MARK: The driver

  /// An address, most often in the guest's memory.
  private func place(_ input: inout Input) -> UInt64 {
    let kind = input.byte()
    if kind == 0xff { return input.number() }
    return Self.starts[Int(kind) % 3]
      + (kind < 0x80 ? UInt64(input.byte()) * 16 : UInt64(input.number(UInt16.self)))
  }

  /// A chain in an indirect table, most often a good one: in each entry something may be wrong.
  private func makeTable(_ input: inout Input) {
    let table = Self.starts[Int(input.byte()) % 3] + UInt64(input.byte() & 0x3f) * 64
    let count = UInt16(input.byte() % 8) + 1
    let firstWritable = UInt16(input.byte() % 9)
    for index in 0..<count {
      let change = input.byte()
      var flags =
        (index >= firstWritable ? DriverQueue.write : 0) | (index + 1 < count ? DriverQueue.next : 0)
      if change >= 0xf0 { flags ^= 1 << UInt16(change & 3) }
      // Behind the end of the table too.
      let next = change & 0xf0 == 0xe0 ? UInt16(change & 0xf) : index + 1
      DriverQueue.writeDescriptor(
        ram, at: table + 16 * UInt64(index), address: place(&input), length: length(&input), flags: flags,
        next: next)
    }
    let head = UInt16(input.byte()) & (driver.size - 1)
    driver.setDescriptor(head, address: table, length: UInt32(count) * 16, flags: DriverQueue.indirect)
    driver.makeAvailable(head)
  }

  private func length(_ input: inout Input) -> UInt32 {
    let kind = input.byte()
    return kind == 0xff ? input.number() : UInt32(kind) * (kind & 1 == 0 ? 8 : 1)
  }

  private func contains(_ address: UInt64, _ count: UInt64) -> Bool {
    let (end, overflow) = address.addingReportingOverflow(count)
    return !overflow && Self.starts.contains { address >= $0 && end <= $0 + Self.blockSize }
  }

  private func write(_ bytes: [UInt8], at address: UInt64) {
    if contains(address, UInt64(bytes.count)) { ram.write(bytes, at: address) }
  }

  // MARK: The device

  private func take() {
    let wasBroken = queue.isBroken
    let position = queue.position
    let available = ram.number(UInt16.self, at: driver.available + 2)
    let head = ram.number(
      UInt16.self, at: driver.available + 4 + 2 * UInt64(position & (driver.size - 1)))
    let ringIsGood = available &- position <= driver.size && head < driver.size
    let expected = ringIsGood ? Walk(ram, driver, head, hasTables: hasTables).result : nil
    do throws(VirtQueueError) {
      let isTaken = try queue.next(into: &chain)
      expect(isTaken == (!wasBroken && available != position), "a chain was taken where there is none")
      guard isTaken else { return expect(queue.position == position, "the position moves without a chain") }
      guard case .chain(let readable, let writable) = expected else { fail("a bad chain was taken") }
      expect(chain.readable == readable && chain.writable == writable, "another chain was taken")
      expect(chain.readableLength + chain.writableLength <= UInt64(UInt32.max), "the chain is too long")
    } catch {
      expect(!wasBroken && available != position, "an error without a chain: \(error)")
      expect(error.breaksRing == !ringIsGood, "\(error) is not of the ring")
      expect(queue.isBroken == error.breaksRing, "the queue does not know: \(error)")
      if error.breaksRing { return }
      guard case .bad = expected else { fail("a good chain was refused: \(error)") }
    }
    expect(queue.position == position &+ 1 && chain.head == head, "the next chain was not taken in turn")
    taken.append(head)
  }

  private func read(_ input: inout Input) {
    let count = Int(input.number(UInt16.self) & 0xfff)
    var reader = ChainReader(chain, queue.memory)
    expect(reader.remaining == chain.readableLength, "the reader's length")
    var bytes: [UInt8] = []
    do throws(VirtQueueError) {
      try reader.read(count, into: &bytes)
      expect(bytes == content(chain.readable, count), "a chain reads otherwise")
    } catch .readPastEnd {
      expect(UInt64(count) > chain.readableLength && bytes.isEmpty, "read past the end")
    } catch {
      expect(bytes.count < count && bytes == content(chain.readable, bytes.count), "a chain reads otherwise")
    }
  }

  /// Copied byte by byte.
  private func content(_ ranges: [GuestRange], _ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    for range in ranges {
      for offset in 0..<range.length {
        if bytes.count == count { return bytes }
        bytes += ram.read(1, at: range.address.rawValue + offset)
      }
    }
    return bytes
  }

  private func answer(_ input: inout Input) {
    let bytes = input.take(Int(input.byte()))
    var writer = ChainWriter(chain, queue.memory)
    var blocks = Self.starts.map { ram.read(Int(Self.blockSize), at: $0) }
    do throws(VirtQueueError) {
      unsafe try writer.write(bytes.span.bytes)
      expect(Int(writer.written) == bytes.count, "written: \(writer.written) of \(bytes.count)")
    } catch .writePastEnd {
      expect(UInt64(bytes.count) > chain.writableLength && writer.written == 0, "written past the end")
    } catch {
      expect(Int(writer.written) < bytes.count, "all was written, and \(error)")
    }
    // What was written stands where it belongs, and nothing else has changed.
    var left = bytes.prefix(Int(writer.written))
    for range in chain.writable {
      var address = range.address.rawValue
      for byte in left.prefix(Int(range.length)) {
        let block = Self.starts.lastIndex { $0 <= address }!
        blocks[block][Int(address - Self.starts[block])] = byte
        address += 1
      }
      left = left.dropFirst(Int(range.length))
    }
    for (start, block) in zip(Self.starts, blocks) {
      expect(ram.read(block.count, at: start) == block, "an answer stands where it does not belong")
    }
  }

  private func complete(_ input: inout Input) {
    guard !taken.isEmpty else { return }
    let head = taken.remove(at: Int(input.byte()) % taken.count)
    let written = input.number(UInt32.self)
    queue.complete(head: head, written: written)
    let slot = driver.used + 4 + 8 * UInt64(completed & (driver.size - 1))
    completed &+= 1
    expect(ram.number(UInt32.self, at: slot) == UInt32(head), "the used ring names another chain")
    expect(ram.number(UInt32.self, at: slot + 4) == written, "the used ring has another length")
    expect(ram.number(UInt16.self, at: driver.used + 2) == completed, "the used index")
    if input.byte() & 1 == 0 { checkNotification() }
  }

  private func checkNotification() {
    let expected: Bool
    if driver.eventIndex {
      // The event lies in the completions since the last look, which are counted one by one.
      expected = (0..<(completed &- notified)).contains { notified &+ $0 == driver.usedEvent }
    } else {
      expected = completed != notified && !driver.suppressesCalls
    }
    notified = completed
    expect(queue.shouldNotify() == expected, "the driver is called at the wrong time")
  }

  private func checkResume() {
    let more = queue.resumeKicks()
    let available = ram.number(UInt16.self, at: driver.available + 2)
    expect(more == (!queue.isBroken && available != queue.position), "chains are overlooked")
  }

  /// The same rings in a table that may lack memory; the chains in flight lose it.
  private func move(_ input: inout Input) {
    let which = input.byte()
    let regions = ram.memory.regions.enumerated().filter { $0.offset == 0 || which & 1 << $0.offset != 0 }
    guard let memory = try? GuestMemory(regions.map(\.element)) else { fail("a part of a table is a table") }
    // The walk below knows all of the RAM: come back before the next chain is taken.
    queue.memory = memory
    read(&input)
    queue.memory = ram.memory
    do throws(VirtQueueError) {
      try queue.move(to: driver.rings, memory: ram.memory)
    } catch { fail("the same place was refused: \(error)") }
  }
}

extension DriverQueue {
  fileprivate func setDescriptor(_ index: UInt16, of input: inout Input, _ address: UInt64) {
    let kind = input.byte()
    let length: UInt32 = kind == 0xff ? input.number() : UInt32(kind) * (kind & 1 == 0 ? 16 : 1)
    setDescriptor(
      index, address: address, length: length, flags: UInt16(input.byte() & 7), next: UInt16(input.byte()))
  }
}

/// What a chain is by the letter of the spec (virtio 1.3, 2.7.5).
private struct Walk {
  enum Result {
    case chain(readable: [GuestRange], writable: [GuestRange])
    case bad
  }

  private(set) var result = Result.bad

  init(_ ram: GuestRAM, _ driver: DriverQueue, _ head: UInt16, hasTables: Bool) {
    var descriptors: [(address: UInt64, length: UInt32, flags: UInt16)] = []
    /// - Returns: whether the chain in this table ends well.
    func follow(_ table: [UInt8], from first: Int, isDirect: Bool) -> Bool {
      var index = first
      for _ in 0..<table.count / 16 {
        guard index < table.count / 16 else { return false }
        let entry = Array(table[16 * index..<16 * index + 16])
        let (address, length): (UInt64, UInt32) = (entry.value(at: 0), entry.value(at: 8))
        let (flags, next): (UInt16, UInt16) = (entry.value(at: 12), entry.value(at: 14))
        if flags & DriverQueue.indirect != 0 {
          guard hasTables, isDirect, flags & DriverQueue.next == 0, length > 0, length % 16 == 0 else {
            return false
          }
          var bytes: [UInt8] = []
          let range = GuestRange(address: GuestAddress(address), length: UInt64(length))
          guard (try? ram.memory.append(range, to: &bytes)) != nil else { return false }
          return follow(bytes, from: 0, isDirect: false)
        }
        descriptors.append((address, length, flags))
        if flags & DriverQueue.next == 0 { return true }
        index = Int(next)
      }
      return false
    }
    let table = ram.read(16 * Int(driver.size), at: driver.descriptors)
    guard follow(table, from: Int(head), isDirect: true) else { return }
    let isWritable = descriptors.map { $0.flags & DriverQueue.write != 0 && $0.length > 0 }
    let total = descriptors.reduce(0) { $0 + UInt64($1.length) }
    guard total <= UInt64(UInt32.max) else { return }
    // 2.7.4.2: what the device reads comes first.
    let firstWritable = isWritable.firstIndex(of: true) ?? descriptors.count
    let rest = descriptors[firstWritable...]
    guard rest.allSatisfy({ $0.flags & DriverQueue.write != 0 }) else { return }
    func ranges(_ part: ArraySlice<(address: UInt64, length: UInt32, flags: UInt16)>) -> [GuestRange] {
      part.filter { $0.length > 0 }.map {
        GuestRange(address: GuestAddress($0.address), length: UInt64($0.length))
      }
    }
    result = .chain(readable: ranges(descriptors[..<firstWritable]), writable: ranges(rest))
  }
}
