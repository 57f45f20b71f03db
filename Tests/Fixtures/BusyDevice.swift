package import Buffers
package import Linux
package import SystemPackage
internal import Udmabuf

/// A device that works on some pages until the test ends its work: an eventfd whose counter is full stands for its fences.
package final class BusyDevice {
  private let fences: DMABuf

  package init() throws(Errno) {
    fences = try DMABuf(adopting: EventFD().fd.duplicate())
    try fences.withSharedDescriptor { fd throws(Errno) in
      // The greatest count: nothing can be added to it, so that it is not writable.
      let full: [UInt8] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
      unsafe try fd.write(full.span.bytes)
    }
  }

  /// Waits for its work; nil if that is done.
  package func wait(_ loop: EventLoop, whenOver: @escaping () -> Void) -> DeviceWait? {
    DeviceWait(fences, loop, whenOver: whenOver)
  }

  /// Its work is done. A turn of the loop tells.
  package func finish() throws(Errno) {
    try fences.withDescriptor { fd throws(Errno) in _ = try fd.read(upTo: 8) }
  }
}
