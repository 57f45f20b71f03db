import Linux
import SystemPackage

@testable import GuestAgent

/// A card whose buffers are memfds, which also stand for the dma-bufs of others.
final class FakeCard: GuestCard {
  var isThere = true
  /// It takes what others have made, as the kernel's driver does from 6.14 on.
  var importsForeign = true
  /// What the host offers, by number.
  var offered: [UInt64: Memfd] = [:]
  /// Handles that were closed.
  private(set) var closed: [UInt32] = []
  private var openHandles: CardHandles!
  var handles: CardHandles { openHandles }
  private var made: [UInt32: Memfd] = [:]
  /// By inode: the resource, and the handle that is open.
  private var resources: [UInt64: UInt32] = [:]
  private var open: [UInt64: UInt32] = [:]
  private var nextResource: UInt32
  private var nextHandle: UInt32 = 1

  /// - Parameter first: the number of its first resource.
  init(first: UInt32 = 1) {
    nextResource = first
    openHandles = CardHandles { [unowned self] handle in
      closed.append(handle)
      open = open.filter { $0.value != handle }
    }
  }

  func makeBuffer(_ size: UInt64) throws(Errno) -> CardBuffer {
    if size > 1 << 40 { throw .fileTooLarge }
    let memfd = try Memfd.create(name: "card", size: wholePages(size))
    let resource = take(&nextResource)
    (made[resource], resources[memfd.status.inode]) = (memfd, resource)
    return try buffer(memfd.status.inode, resource, wholePages(size), isOwn: true)
  }

  private func take(_ number: inout UInt32) -> UInt32 {
    defer { number += 1 }
    return number
  }

  private func buffer(_ inode: UInt64, _ resource: UInt32, _ size: UInt64, isOwn: Bool) throws(Errno)
    -> CardBuffer
  {
    let handle = open[inode] ?? take(&nextHandle)
    open[inode] = handle
    return try handles.buffer(handle) { () throws(Errno) in (resource, size, isOwn) }
  }

  func receive(_ offer: UInt64, size: UInt64) throws(Errno) -> CardBuffer {
    guard let memfd = offered[offer], memfd.status.size == size else { throw .invalidArgument }
    let resource = take(&nextResource)
    (made[resource], resources[memfd.status.inode]) = (memfd, resource)
    return try buffer(memfd.status.inode, resource, size, isOwn: true)
  }

  func importBuffer(_ dmabuf: borrowing FD) throws(Errno) -> CardBuffer {
    let status = try dmabuf.status()
    if let resource = resources[status.inode], made[resource] != nil {
      return try buffer(status.inode, resource, status.size, isOwn: true)
    }
    guard importsForeign else { throw .operationNotSupportedByDevice }
    // As in the kernel, it is the same resource as long as a handle is open.
    let resource = open[status.inode] == nil ? take(&nextResource) : resources[status.inode]!
    resources[status.inode] = resource
    return try buffer(status.inode, resource, status.size, isOwn: false)
  }

  func export(_ buffer: CardBuffer) throws(Errno) -> FD {
    try memfd(buffer).withDescriptor { fd throws(Errno) in try fd.duplicate() }
  }

  func map(_ buffer: CardBuffer) throws(Errno) -> Mapping { try mapping(of: buffer.resource) }

  func copy(_ dmabuf: DMABuf) throws(Errno) -> CardBuffer {
    let buffer = try makeBuffer(dmabuf.size)
    let source = try dmabuf.map()
    try map(buffer).copy(source.length, from: source, at: 0, to: 0)
    return buffer
  }

  private func memfd(_ buffer: CardBuffer) throws(Errno) -> Memfd {
    guard let memfd = made[buffer.resource] else { throw .invalidArgument }
    return memfd
  }

  /// What the host sees.
  func mapping(of resource: UInt32) throws(Errno) -> Mapping {
    guard let memfd = made[resource] else { throw .invalidArgument }
    return try memfd.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: Int(memfd.status.size), writable: true)
    }
  }
}
