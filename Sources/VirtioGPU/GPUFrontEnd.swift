package import Linux
package import Virtio

/// What the device says without being asked.
package enum DeviceNews: Equatable, Sendable {
  /// The configuration space has changed.
  case configChanged
  /// `GPUDevice.sharedObject` has a dma-buf of that name from now on.
  case objectAdded(ObjectUUID)
  /// It has it no more.
  case objectRemoved(ObjectUUID)
}

/// Why news did not get through.
package struct LostNews: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// Joins the device to its guest, and takes its news there.
package protocol GPUFrontEnd: AnyObject {
  /// Passes it on at once or not at all: nothing may be waited for. Who does not want to know it is not told.
  /// - Throws: when it is lost. The device counts that, and goes on.
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
