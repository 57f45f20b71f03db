internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// Shadow memory that others can import: a memfd's pages, as a udmabuf.
final class DMABufShadow: ShadowMemory {
  private let memory: MemfdShadow
  private let dmabuf: DMABuf

  var mapping: Mapping { memory.mapping }
  var isDMABuf: Bool { true }

  func descriptor() throws(Errno) -> FD {
    try dmabuf.withDescriptor { fd throws(Errno) in try fd.duplicate() }
  }

  func isBelow(_ bound: Int) -> Bool { memory.isBelow(bound) && dmabuf.withDescriptor { $0.isBelow(bound) } }

  /// - Throws: why the kernel makes no dma-buf of that memory.
  init(_ memory: MemfdShadow, _ device: UdmabufDevice) throws(UdmabufError) {
    let range = MemfdRange(memfd: memory.memfd, offset: 0, length: UInt64(memory.mapping.length))
    (self.memory, dmabuf) = (memory, try device.create(range))
  }
}
