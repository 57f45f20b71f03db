package import Virtio

/// A running virtqueue, and how to tell the driver that something was completed in it.
package struct GPUQueue {
  package let queue: VirtQueue
  /// It is enabled and its memory is there; nothing is taken from it otherwise.
  package let mayWork: () -> Bool
  package let notify: () -> Void

  package init(
    queue: VirtQueue, mayWork: @escaping () -> Bool = { true }, notify: @escaping () -> Void
  ) { (self.queue, self.mayWork, self.notify) = (queue, mayWork, notify) }
}
