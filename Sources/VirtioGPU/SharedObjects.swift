internal import Buffers
internal import Linux
internal import SystemPackage
internal import Udmabuf
internal import Virtio

/// The dma-bufs for other devices of the guest, by the UUID that this device gave their resources (virtio 1.3, 5.7.6.8:
/// RESOURCE_ASSIGN_UUID). The other devices get them through the front end.
final class SharedObjects {
  private var objects: [ObjectUUID: DMABuf] = [:]
  private let mistakes: MistakeLog
  private let tell: (DeviceNews) -> Void

  /// - Parameter tell: takes the news to the front end.
  init(_ mistakes: MistakeLog, tell: @escaping (DeviceNews) -> Void) {
    (self.mistakes, self.tell) = (mistakes, tell)
  }

  var count: Int { objects.count }

  /// The resource's UUID, made at the first request.
  func assignUUID(_ resource: Resource) -> ObjectUUID {
    if let uuid = resource.uuid { return uuid }
    let uuid = ObjectUUID.random()
    resource.uuid = uuid
    share(resource)
    return uuid
  }

  /// Tells the front end of a resource that has a name and lent pages. A copy of the pages is not shared, because writes to
  /// it would not reach the guest.
  func share(_ resource: Resource) {
    guard let uuid = resource.uuid, let dmabuf = resource.buffer?.dmabuf, resource.store == nil,
      // A dma-buf cannot be made read-only.
      resource.offer?.isWritable != false
    else {
      return
    }
    objects[uuid] = dmabuf
    tell(.objectAdded(uuid))
  }

  /// The pages are about to go back. Holders of the dma-buf keep it, because the kernel cannot take it back.
  func unshare(_ resource: Resource) {
    guard let uuid = resource.uuid, objects.removeValue(forKey: uuid) != nil else { return }
    tell(.objectRemoved(uuid))
  }

  /// A new descriptor of the dma-buf that is shared under a name; nil if there is none, or no free descriptor.
  func descriptor(of uuid: ObjectUUID) -> FD? {
    guard let dmabuf = objects[uuid] else { return nil }
    do throws(Errno) {
      return try dmabuf.withSharedDescriptor { fd throws(Errno) in try fd.duplicate() }
    } catch {
      mistakes.report(.descriptors, "the dma-buf \(uuid) cannot be given away: \(error)")
      return nil
    }
  }
}
