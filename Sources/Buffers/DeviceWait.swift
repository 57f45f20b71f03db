package import Linux
internal import SystemPackage
package import Udmabuf

/// Waits for devices that still work on a buffer's pages. A GPU may go on reading a buffer after its consumer has let go.
/// The fences of the dma-buf's reservation say when the GPU is done.
///
/// Only processes that got the dma-buf can make a device read it.
package final class DeviceWait {
  private let dmabuf: DMABuf
  private let loop: EventLoop
  private var token: EventLoop.Token?

  /// - Parameter whenOver: is called from the loop, once.
  /// - Returns: nil if no device works on it.
  package init?(_ dmabuf: DMABuf, _ loop: EventLoop, whenOver: @escaping () -> Void) {
    (self.dmabuf, self.loop) = (dmabuf, loop)
    guard dmabuf.isShared, !dmabuf.isIdle else { return nil }
    token = try? dmabuf.withDescriptor { fd throws(Errno) in
      try loop.add(fd, .writable) { [unowned self] _ in
        end()
        whenOver()
      }
    }
    if token == nil { return nil }
  }

  deinit { end() }

  package var isOver: Bool { token == nil }

  private func end() {
    if let token = token.take() { dmabuf.withDescriptor { loop.remove(token, $0) } }
  }
}
