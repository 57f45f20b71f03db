internal import Guest
internal import Virtio

/// A part of a ring is not wholly in the memory table.
struct OutsideMemory: Error {
  let part: RingPart
  let userAddress: UInt64
}

extension RingWindows {
  /// Finds the three parts of a ring in the memory table.
  init(
    _ addresses: VringAddresses, size: UInt16, eventIndex: Bool, _ memory: GuestMemory
  ) throws(OutsideMemory) {
    func window(_ part: RingPart, _ address: UInt64) throws(OutsideMemory) -> GuestWindow {
      let length = VirtQueue.bytes(of: part, size: size, eventIndex: eventIndex)
      do {
        return try memory.window(userAddress: address, length: length)
      } catch {
        throw OutsideMemory(part: part, userAddress: address)
      }
    }
    self.init(
      descriptors: try window(.descriptors, addresses.descriptors),
      available: try window(.available, addresses.available), used: try window(.used, addresses.used))
  }
}
