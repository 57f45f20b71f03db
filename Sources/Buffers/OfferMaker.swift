internal import Linux
package import SystemPackage
package import Udmabuf

/// Why a file of the host is nothing that a guest may have.
package enum OfferObstacle: Error, Equatable {
  case neitherMemfdNorDMABuf
  /// The guest would end with what reads beyond its end.
  case mayShrink
  case hugePages(UInt64)
  /// No whole pages, in bytes.
  case size(UInt64)
  /// It cannot be written, or, for what is to be read only, it can.
  case access(isWritable: Bool)
  /// A dma-buf of a driver of which it is not known that it bears a guest's first write.
  case exporter(String?)
  case failed(Errno)
}

extension OfferObstacle: CustomStringConvertible {
  package var description: String {
    switch self {
    case .neitherMemfdNorDMABuf: "it is neither a memfd nor a dma-buf"
    case .mayShrink:
      "it is a memfd that can become shorter, which would end whoever reads on: seal it with F_SEAL_SHRINK before, "
        + "as udmabridge memfd does"
    case .hugePages(let size):
      "it has pages of \(size) bytes, and what is mapped into a guest has \(systemPageSize)"
    case .size(let size):
      "it has \(size) bytes: whole pages of \(systemPageSize) are mapped, \(OfferMaker.largest >> 30) GiB at most"
    case .access(true):
      "it can be written, and nothing keeps a guest from that: ro needs a dma-buf that was made without DRM_RDWR"
    case .access(false):
      "it cannot be written: QEMU maps what it is given for reading and writing, and cannot map this"
    case .exporter(let name):
      "it is a dma-buf of \(name ?? "an unknown driver"), of which it is not known that it bears a guest's first write: "
        + "those of \(OfferMaker.goodExporters.joined(separator: ", ")) do"
    case .failed(let error): "it cannot be mapped: \(error)"
    }
  }
}

/// Makes offers of what is open.
package final class OfferMaker {
  /// Drivers whose dma-bufs a guest can write where it is mapped, each page for the first time too: their pages are there, and nobody
  /// wants to note the first write. From Linux 7.0 on that is not so of dumb buffers in the host's memory, and it ends QEMU.
  package static let goodExporters = ["udmabuf", "system"]
  /// In bytes.
  package static let largest: UInt64 = 1 << 40

  private let udmabuf: Result<UdmabufDevice, Errno>
  /// Why all is copied where it is shown; nil: it is not.
  private let chosen: ShadowCause?
  private let probe: DescriptorProbe

  /// - Parameter copied: why all is copied where it is shown; nil if it is lent.
  package init(udmabuf: Result<UdmabufDevice, Errno>, copied: ShadowCause?) throws(Errno) {
    (self.udmabuf, chosen) = (udmabuf, copied)
    probe = try DescriptorProbe()
  }

  /// - Parameters:
  ///   - fd: a memfd that cannot become shorter, or a dma-buf.
  ///   - uses: so many blobs of it may exist at once.
  ///   - token: closes when the guest has nothing of it any more.
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

  /// Of a dma-buf whose driver is known to be good for that.
  package func make(
    _ id: UInt64, _ dmabuf: DMABuf, _ isWritable: Bool, _ uses: Int, _ token: consuming FD? = nil
  ) throws(OfferObstacle) -> HostOffer {
    try check(dmabuf.size)
    let fd = try asking { () throws(Errno) in
      try dmabuf.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    }
    // A dma-buf is what its maker made it, and cannot be opened anew.
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
    // QEMU maps for reading and writing whatever it is asked for (11.1.3): that a guest cannot write rests on a
    // descriptor that cannot. QEMU then refuses to map it, and the guest sees an error.
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

  /// How it is shown.
  private func backing(_ id: UInt64, _ memfd: Memfd, _ size: UInt64, _ isWritable: Bool) -> Buffer.Backing {
    if let chosen { return .shadow(chosen) }
    guard isWritable else {
      return .shadow(
        ShadowCause(
          .readOnly,
          "offer \(id) is read-only, and a dma-buf of it could be written by whoever it is shown to: it is copied"
        ))
    }
    do {
      return .lent(try udmabuf.get().create(MemfdRange(memfd: memfd, offset: 0, length: size)))
    } catch {
      return .shadow(ShadowCause(.udmabuf, "offer \(id) is no dma-buf, so that it is copied: \(error)"))
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
