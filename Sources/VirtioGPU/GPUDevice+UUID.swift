internal import Buffers
package import Linux
internal import SystemPackage
internal import Udmabuf
package import Virtio

// Other devices of the guest find a buffer by a name that this device gives it, and get its dma-buf through
// the front end.
extension GPUDevice {
  /// The resource's UUID, made at the first request (virtio 1.3, 5.7.6.8: RESOURCE_ASSIGN_UUID).
  func assignUUID(_ resource: Resource) -> ObjectUUID {
    if let uuid = resource.uuid { return uuid }
    let uuid = ObjectUUID.random()
    resource.uuid = uuid
    share(resource)
    return uuid
  }

  /// Tells the front end of a resource that has a name and, by now, pages of its own that are lent. A copy of
  /// them is not shared: what others write to it would reach nobody.
  func share(_ resource: Resource) {
    guard let uuid = resource.uuid, let dmabuf = resource.buffer?.dmabuf, resource.store == nil,
      // A dma-buf cannot be made read-only.
      resource.offer?.isWritable != false
    else {
      return
    }
    sharedObjects[uuid] = dmabuf
    tell(.objectAdded(uuid))
  }

  /// The pages are about to go back. Who has the dma-buf already keeps it: the kernel takes none back.
  func unshare(_ resource: Resource) {
    guard let uuid = resource.uuid, sharedObjects.removeValue(forKey: uuid) != nil else { return }
    tell(.objectRemoved(uuid))
  }

  /// A new descriptor of the dma-buf that is shared under a name; nil if there is none, or no room for one
  /// more descriptor.
  package func sharedObject(_ uuid: ObjectUUID) -> FD? {
    guard let dmabuf = sharedObjects[uuid] else { return nil }
    do throws(Errno) {
      return try dmabuf.withSharedDescriptor { fd throws(Errno) in try fd.duplicate() }
    } catch {
      mistakes.report("descriptors", "the dma-buf \(uuid) cannot be given away: \(error)")
      return nil
    }
  }
}
