package import Guest
internal import Udmabuf

/// The places of a ring's three parts in the host's memory (virtio 1.3, 2.7).
package struct RingWindows {
  package let descriptors: GuestWindow
  package let available: GuestWindow
  package let used: GuestWindow

  package init(descriptors: GuestWindow, available: GuestWindow, used: GuestWindow) {
    self.descriptors = descriptors
    self.available = available
    self.used = used
  }

  /// Checks that each part is long enough, and aligned so that its fields can be read at once.
  /// - Throws: `ringTooShort` or `ringMisaligned`.
  func check(size: UInt16, eventIndex: Bool) throws(VirtQueueError) {
    func check(_ part: RingPart, _ window: GuestWindow, alignment: Int) throws(VirtQueueError) {
      let needed = VirtQueue.bytes(of: part, size: size, eventIndex: eventIndex)
      if window.length < needed { throw .ringTooShort(part, length: window.length, needed: needed) }
      guard window.mapping.isAligned(window.start, to: alignment) else {
        throw .ringMisaligned(part, alignment: alignment)
      }
    }
    try check(.descriptors, descriptors, alignment: 16)
    try check(.available, available, alignment: 2)
    try check(.used, used, alignment: 4)
  }
}
