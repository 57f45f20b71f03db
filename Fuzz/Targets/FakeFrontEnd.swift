internal import Buffers
internal import Linux
internal import SystemPackage
internal import VirtioGPU

/// A front end that maps host memory nowhere, and keeps account of what it was asked.
final class FakeFrontEnd: GPUFrontEnd {
  /// It cannot be asked for anything.
  var isGone = false
  /// It says that it did not do what it is asked from now on.
  var refuses = false
  private(set) var mapped: [Range<UInt64>] = []
  /// What it was asked and has not acknowledged, in order.
  private var asked: [() -> Void] = []

  static let pages: UInt64 = 16

  /// Offer 1 has three pages and may be used twice, offer 2 one page that cannot be written.
  static func offer(_ id: UInt64) throws -> HostOffer {
    let pages = id == 1 ? 3 : 1
    let memfd = try Memfd.create(name: "offer", size: UInt64(pages) * systemPageSize)
    let fd = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    let mapping = try Mapping(fd, offset: 0, length: pages * Int(systemPageSize), writable: true)
    let backing = Buffer.Backing.shadow(ShadowCause(.udmabuf, "none"))
    return HostOffer(
      id: id, fd, Buffer(host: mapping, backing: backing), isWritable: id == 1, limit: id == 1 ? 2 : 1)
  }

  /// These two, in a region for them.
  static func hostMemory(_ offers: [HostOffer]? = nil) throws -> HostMemory {
    HostMemory(size: pages * systemPageSize, offers: try offers ?? [1, 2].map(offer))
  }

  func tell(_ news: DeviceNews) throws(LostNews) { if isGone { throw LostNews("gone") } }

  func map(
    _ fd: borrowing FD, at offset: UInt64, length: UInt64, writable: Bool,
    _ finished: @escaping (Bool) -> Void
  ) throws(LostNews) {
    if isGone { throw LostNews("gone") }
    expect(offset % systemPageSize == 0 && length % systemPageSize == 0 && length > 0, "not whole pages")
    expect(offset + length <= Self.pages * systemPageSize, "outside the region")
    asked.append { [unowned self] in
      let range = offset..<offset + length
      expect(!mapped.contains { $0.overlaps(range) }, "mapped over something else")
      if refuses { return finished(false) }
      mapped.append(range)
      finished(true)
    }
  }

  func unmap(at offset: UInt64, length: UInt64, _ finished: @escaping (Bool) -> Void) throws(LostNews) {
    if isGone { throw LostNews("gone") }
    asked.append { [unowned self] in
      // A reset has taken it away already, or it was not there.
      guard let index = mapped.firstIndex(of: offset..<offset + length) else { return finished(false) }
      mapped.remove(at: index)
      finished(true)
    }
  }

  /// Does what it was asked: so many requests, or all.
  func acknowledge(_ count: Int = .max) {
    for _ in 0..<min(count, asked.count) { asked.removeFirst()() }
  }

  /// The device is reset: all that is mapped goes.
  func reset() { mapped = [] }

  var isIdle: Bool { asked.isEmpty }
}
