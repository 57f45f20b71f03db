internal import CDRM
internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

// Imports of dma-bufs. A card that would see copies of their pages imports none.
extension KMSCard {
  /// Tests with an import whether the kernel gives the device copies of imported memory. The kernel does not tell
  /// every limit of a device or its bus.
  ///
  /// If the trial is not possible yet, the next imports try again.
  func tryImport(_ udmabuf: UdmabufDevice) {
    if bounces { return }
    let isCopied = takesCopies(udmabuf)
    importTrial = isCopied == nil ? udmabuf : nil
    if isCopied == true { bouncing = "was given a copy of memory that was lent to it for a trial" }
  }

  /// Changes a dma-buf of our own during an import, and checks whether the kernel writes an old copy back. Up to
  /// Linux 7.1 the kernel does so for a device that gets copies. From 7.2 on the kernel writes nothing back.
  /// - Returns: nil if no dma-buf can be made.
  func takesCopies(_ udmabuf: UdmabufDevice) -> Bool? {
    let (page, pages) = (4096, 64)
    guard let memfd = try? Memfd.create(name: "udmabridge-trial", size: UInt64(pages * page), seals: .shrink),
      let mapping = try? memfd.withDescriptor({ fd throws(Errno) in
        try Mapping(fd, offset: 0, length: pages * page, writable: true)
      }),
      let dmabuf = try? udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: UInt64(pages * page)))
    else { return nil }
    let (old, new) = (UInt64(0x6f6c64), UInt64(0x6e6577))
    for index in 0..<pages { mapping.store(old, at: index * page) }
    guard let handle = try? primeHandle(dmabuf) else { return false }
    for index in 0..<pages { mapping.store(new, at: index * page) }
    closeHandle(handle)
    return (0..<pages).contains { mapping.load(UInt64.self, at: $0 * page) != new }
  }

  /// The card's handle for a dma-buf, the same for each import of it. The caller closes the handle.
  func importHandle(_ dmabuf: DMABuf) throws(SinkError) -> UInt32 {
    if let importTrial { tryImport(importTrial) }
    if let bouncing {
      throw SinkError(
        .bouncing,
        "the device of \(name) (\(driver)) \(bouncing): the kernel would give the device a copy, which misses what the "
          + "guest draws later, and might write the copy back over the guest's memory; use an IOMMU, another card, "
          + "or a newer kernel"
      )
    }
    return try primeHandle(dmabuf)
  }

  private func primeHandle(_ dmabuf: DMABuf) throws(SinkError) -> UInt32 {
    var handle: UInt32 = 0
    do throws(Errno) {
      try dmabuf.withDescriptor { dmabuf throws(Errno) in
        try dmabuf.withRaw { dmabuf throws(Errno) in
          _ = try file.call { unsafe drmPrimeFDToHandle($0, dmabuf, &handle) }
        }
      }
    } catch {
      throw SinkError(
        .importing,
        "the driver \(driver) of \(name) does not import this dma-buf: \(error); "
          + "use another card, or a newer kernel's driver")
    }
    return handle
  }

  func closeHandle(_ handle: UInt32) { _ = try? file.call { drmCloseBufferHandle($0, handle) } }
}
