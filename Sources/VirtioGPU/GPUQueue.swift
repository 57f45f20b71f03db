package import Virtio

/// A running virtqueue, with the means to tell the driver about completed chains.
package struct GPUQueue {
  package let queue: VirtQueue
  /// Whether it is enabled and its memory is mapped. Otherwise nothing is taken from it.
  package let mayWork: () -> Bool
  package let notify: () -> Void

  package init(
    queue: VirtQueue, mayWork: @escaping () -> Bool = { true }, notify: @escaping () -> Void
  ) { (self.queue, self.mayWork, self.notify) = (queue, mayWork, notify) }
}
