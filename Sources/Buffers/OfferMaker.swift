internal import Linux
package import SystemPackage
package import Udmabuf

/// Why a file of the host cannot be offered to a guest.
package enum OfferObstacle: Error, Equatable {
  case neitherMemfdNorDMABuf
  /// Reading beyond its end would end QEMU, and with it the guest.
  case mayShrink
  case hugePages(UInt64)
  /// The size in bytes is not whole pages, or too large.
  case size(UInt64)
  /// It cannot be written; or it can, but is offered as read-only.
  case access(isWritable: Bool)
  /// A dma-buf of a driver that is not known to allow a guest's first write to a page.
  case exporter(String?)
  case failed(Errno)
}

extension OfferObstacle: CustomStringConvertible {
  package var description: String {
    switch self {
    case .neitherMemfdNorDMABuf: "it is neither a memfd nor a dma-buf"
    case .mayShrink:
      "it is a memfd that can become shorter, which would end its readers: seal it with F_SEAL_SHRINK before, "
        + "as udmabridge memfd does"
    case .hugePages(let size):
      "it has pages of \(size) bytes, but only pages of \(systemPageSize) can be mapped into a guest"
    case .size(let size):
      "it has \(size) bytes, but an offer must be whole pages of \(systemPageSize), and at most \(OfferMaker.largest >> 30) GiB"
    case .access(true):
      "it can be written, so a guest could write to it: ro needs a dma-buf that was made without DRM_RDWR"
    case .access(false):
      "it cannot be written: QEMU maps offers for reading and writing, and cannot map this"
    case .exporter(let name):
      "it is a dma-buf of \(name ?? "an unknown driver"), which may not allow a guest's first write: "
        + "give one of \(OfferMaker.goodExporters.joined(separator: ", "))"
    case .failed(let error): "it cannot be mapped: \(error)"
    }
  }
}

/// Makes offers of open descriptors.
package final class OfferMaker {
  /// Drivers whose mapped dma-bufs a guest can write, also each page's first time: the pages exist, and the driver does not note
  /// the first write. From Linux 7.0 on, dumb buffers in the host's memory are different, and a first write ends QEMU.
  package static let goodExporters = ["udmabuf", "system"]
  /// The largest offer in bytes.
  package static let largest: UInt64 = 1 << 40

  private let udmabuf: Result<UdmabufDevice, Errno>
  /// Why shown offers are copied; nil if they are lent.
  private let chosen: ShadowCause?
  private let probe: DescriptorProbe

  /// - Parameter copied: why shown offers are copied; nil if they are lent.
  package init(udmabuf: Result<UdmabufDevice, Errno>, copied: ShadowCause?) throws(Errno) {
    (self.udmabuf, chosen) = (udmabuf, copied)
    probe = try DescriptorProbe()
  }

  /// - Parameters:
  ///   - fd: a memfd that cannot become shorter, or a dma-buf.
  ///   - uses: at most this many blobs of it may exist at once.
  ///   - token: is closed when the guest has let go of the memory.
  package func make(
    _ id: UInt64, of fd: consuming FD, isWritable: Bool = true, uses: Int, token: consuming FD? = nil
  ) throws(OfferObstacle) -> HostOffer {
    switch try asking({ () throws(Errno) in try fd.fileKind() }) {
    case .dmaBuf:
      let exporter = try asking { () throws(Errno) in try probe.exporter(of: fd) }
      guard let exporter, Self.goodExporters.contains(exporter) else { throw .exporter(exporter) }
      let dmabuf: DMABuf
      do throws(Errno) { dmabuf = try DMABuf(adopting: fd) } catch { throw .failed(error) }
      return try make(id, dmabuf, isWritable, uses, token)
    case .hugePages(let size): throw .hugePages(size)
    case .sharedMemory, .other:
      let memfd: Memfd
      do throws(Errno) { memfd = try Memfd(adopting: fd) } catch { throw .failed(error) }
      guard let seals = try? memfd.seals() else { throw .neitherMemfdNorDMABuf }
      guard seals.contains(.shrink) else { throw .mayShrink }
      return try make(id, memfd, isWritable, uses, token)
    }
  }

  /// Makes an offer of a dma-buf whose driver is known to allow it.
  package func make(
    _ id: UInt64, _ dmabuf: DMABuf, _ isWritable: Bool, _ uses: Int, _ token: consuming FD? = nil
  ) throws(OfferObstacle) -> HostOffer {
    try check(dmabuf.size)
    let fd = try asking { () throws(Errno) in
      try dmabuf.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    }
    // A dma-buf cannot be opened again with other rights.
    let canWrite = try asking { () throws(Errno) in try fd.isWritable }
    guard canWrite == isWritable else { throw .access(isWritable: canWrite) }
    let mapping = try asking { () throws(Errno) in try dmabuf.map(writable: isWritable) }
    let backing = chosen.map { .shadow($0) } ?? Buffer.Backing.lent(dmabuf)
    return HostOffer(
      id: id, fd, Buffer(host: mapping, backing: backing), isWritable: isWritable, limit: uses, token: token)
  }

  private func make(
    _ id: UInt64, _ memfd: Memfd, _ isWritable: Bool, _ uses: Int, _ token: consuming FD?
  ) throws(OfferObstacle) -> HostOffer {
    let size = try asking { () throws(Errno) in try memfd.currentSize() }
    try check(size)
    // QEMU always maps for reading and writing (11.1.3). Only a descriptor without write access keeps a guest from
    // writing; QEMU then refuses to map it, and the guest sees an error.
    let fd = try asking { () throws(Errno) in
      try memfd.withDescriptor { fd throws(Errno) in
        try isWritable ? fd.duplicate() : fd.reopen(writable: false)
      }
    }
    if isWritable, try !asking({ () throws(Errno) in try fd.isWritable }) { throw .access(isWritable: false) }
    let mapping: Mapping
    do throws(Errno) {
      mapping = try Mapping(fd, offset: 0, length: Int(size), writable: isWritable)
    } catch {
      // It is sealed against writing.
      throw error == .notPermitted ? .access(isWritable: false) : .failed(error)
    }
    let buffer = Buffer(host: mapping, backing: backing(id, memfd, size, isWritable))
    return HostOffer(id: id, fd, buffer, isWritable: isWritable, limit: uses, token: token)
  }

  /// Its memory for screens.
  private func backing(_ id: UInt64, _ memfd: Memfd, _ size: UInt64, _ isWritable: Bool) -> Buffer.Backing {
    if let chosen { return .shadow(chosen) }
    guard isWritable else {
      return .shadow(
        ShadowCause(
          .readOnly,
          "offer \(id) is read-only, but a consumer could write to a dma-buf of it: it is copied"
        ))
    }
    do {
      return .lent(try udmabuf.get().create(MemfdRange(memfd: memfd, offset: 0, length: size)))
    } catch {
      return .shadow(ShadowCause(.udmabuf, "offer \(id) cannot become a dma-buf, so it is copied: \(error)"))
    }
  }

  private func check(_ size: UInt64) throws(OfferObstacle) {
    if size == 0 || size % systemPageSize != 0 || size > Self.largest { throw .size(size) }
  }

  private func asking<Answer: ~Copyable>(
    _ body: () throws(Errno) -> Answer
  ) throws(OfferObstacle) -> Answer {
    do throws(Errno) { return try body() } catch { throw .failed(error) }
  }
}
