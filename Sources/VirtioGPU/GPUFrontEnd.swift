package import Linux
package import Virtio

/// The device's unasked news.
package enum DeviceNews: Equatable, Sendable {
  /// The configuration space has changed.
  case configChanged
  /// `GPUDevice.sharedObject` has a dma-buf of that name from now on.
  case objectAdded(ObjectUUID)
  /// `GPUDevice.sharedObject` no longer has it.
  case objectRemoved(ObjectUUID)
}

/// Why news did not reach the front end.
package struct LostNews: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// Connects the device to its guest, and takes its news there.
package protocol GPUFrontEnd: AnyObject {
  /// Passes news on at once or not at all, and never waits. A front end that does not want news gets none.
  /// - Throws: if the news is lost. The device counts that, and goes on.
  func tell(_ news: DeviceNews) throws(LostNews)

  /// Has a descriptor's memory mapped in the device's shared memory region, whole pages of it from its start.
  /// Nothing is waited for.
  /// - Parameter finished: called once, later, with whether it was done.
  /// - Throws: if it cannot be asked for.
  func map(
    _ fd: borrowing FD, at offset: UInt64, length: UInt64, writable: Bool,
    _ finished: @escaping (Bool) -> Void
  ) throws(LostNews)

  /// Has a mapping taken away, in the same way.
  func unmap(at offset: UInt64, length: UInt64, _ finished: @escaping (Bool) -> Void) throws(LostNews)
}

extension GPUDevice {
  func tell(_ news: DeviceNews) {
    do throws(LostNews) {
      try frontEnd?.tell(news)
    } catch {
      mistakes.report(.lostNews, "the front end could not be told of \(news): \(error)")
    }
  }
}
