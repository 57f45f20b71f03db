package import Buffers
package import SystemPackage
package import Udmabuf

/// Pages that a guest may lend, without `/dev/udmabuf`: a memfd stands where their dma-buf would be. No device reads it.
package final class LendableBuffer {
  package let buffer: Buffer
  /// The same pages, which the test writes and reads.
  package let memory: Mapping

  package init(pages: Int = 1) throws(Errno) {
    let size = UInt64(pages) * systemPageSize
    let memfd = try Memfd.create(name: "lendable", size: size, seals: [.shrink, .grow])
    memory = try memfd.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: Int(size), writable: true)
    }
    let dmabuf = try DMABuf(adopting: memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() })
    buffer = Buffer(host: memory, backing: .lent(dmabuf))
  }
}
