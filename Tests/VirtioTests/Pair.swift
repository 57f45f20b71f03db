import Fixtures
import Guest
import Virtio

/// A driver and a device at the two sides of one virtqueue.
final class Pair {
  let ram: GuestRAM
  let driver: DriverQueue
  let queue: VirtQueue
  var chain = DescriptorChain()

  init(
    size: UInt16 = 8, eventIndex: Bool = true, indirect: Bool = true, start: UInt16 = 0, ram: GuestRAM? = nil
  ) throws {
    self.ram = try ram ?? GuestRAM(size: 4 << 20)
    driver = DriverQueue(self.ram, size: size, eventIndex: eventIndex, start: start)
    queue = try VirtQueue(
      size: size, rings: driver.rings, memory: self.ram.memory, eventIndex: eventIndex,
      indirect: indirect, start: start)
  }

  /// What the device reads of the chain that it took last.
  func request() throws -> [UInt8] {
    var bytes: [UInt8] = []
    var reader = ChainReader(chain, ram.memory)
    try reader.read(Int(reader.remaining), into: &bytes)
    return bytes
  }

  /// Answers the chain that the device took last.
  func answer(_ bytes: [UInt8]) throws {
    var writer = ChainWriter(chain, ram.memory)
    unsafe try writer.write(bytes.span.bytes)
    queue.complete(head: chain.head, written: writer.written)
  }
}

func range(_ address: UInt64, _ length: UInt64) -> GuestRange {
  GuestRange(address: GuestAddress(address), length: length)
}

/// A pattern in which every byte tells where it belongs.
func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }
