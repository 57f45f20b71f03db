internal import Buffers
internal import Linux
internal import Pictures
internal import Scanout
internal import SystemPackage

// The bytes of a resource in memory of ours, if its own pages no longer have its content.
extension Scanouts {
  private static let oddTransfer = ShadowCause(
    .oddTransfer,
    "the guest transfers from another place than that of the rectangle in the image, which no current driver does"
  )
  private static let detached = ShadowCause(
    .detached, "the guest took the pages back, and a copy of their content stays on the screen")

  /// A resource keeps its content when its pages go back (virtio 1.3, 5.7.6.8: TRANSFER_TO_HOST_2D copies). The content is
  /// copied into memory of ours, and shown from there in place of the pages.
  func keepContent(of resource: Resource) {
    guard mayCopy, let buffer = resource.buffer else { return }
    let isChosen = all.contains { $0.binding?.resource === resource }
    guard resource.wasTransferred || isChosen else { return }
    if resource.store == nil {
      do throws(Mistake) { try makeStore(of: resource, Self.detached) } catch { mistakes.report(error) }
      if let store = resource.store { self.store(StoreCopy(all: buffer.bytes, store)) }
    }
    replaceLent(resource, Self.detached)
  }

  /// Keeps the bytes of a transfer in memory of our own. The bytes of earlier transfers are copied from the image's place.
  /// - Parameters:
  ///   - offset: where the bytes come from in the guest's memory.
  ///   - place: where they belong in the image, in bytes.
  func store(
    _ area: Rectangle, of resource: Resource, _ image: FrameLayout, _ buffer: Buffer, from offset: Int,
    to place: Int
  ) throws(Mistake) {
    let isNew = resource.store == nil
    if isNew { try makeStore(of: resource, Self.oddTransfer) }
    guard let store = resource.store else { return }
    let stride = Int(image.stride)
    self.store(
      StoreCopy(
        buffer.bytes, store, stride: stride,
        before: isNew ? StoreCopy.Rows(count: Int(image.height), length: stride, from: 0, to: 0) : nil,
        part: StoreCopy.Rows(count: Int(area.height), length: Int(area.width) * 4, from: offset, to: place)))
    guard isNew else { return }
    objects.unshare(resource)
    replaceLent(resource, Self.oddTransfer)
    drop(resource.forgetPictures(where: \.isLent))
  }

  /// Replaces the resource's own pages by a copy on each scanout that shows them.
  private func replaceLent(_ resource: Resource, _ cause: ShadowCause) {
    guard let maker else { return }
    for scanout in all {
      guard let binding = scanout.binding, binding.resource === resource,
        case .lent(let frame) = binding.picture
      else { continue }
      let wasShown = scanout.last === frame
      do throws(Mistake) {
        let copy = try shadow(of: resource, binding.view, on: scanout, cause, maker)
        bind(scanout, resource, binding.view, copy.map { .shadow($0) })
        if wasShown, copy != nil { present(scanout, damage: binding.view.source, ownInitiative: true) }
      } catch { mistakes.report(error) }
    }
  }

  /// Makes room for the whole content of the resource.
  private func makeStore(of resource: Resource, _ cause: ShadowCause) throws(Mistake) {
    do throws(LendError) { try admitShadow(resource.size) } catch {
      throw Mistake(error, resource: resource.id)
    }
    let size = Int(resource.size)
    do throws(Errno) {
      let memfd = try Memfd.create(name: "udmabridge-store", size: resource.size)
      let mapping = try memfd.withDescriptor { fd throws(Errno) in
        try Mapping(fd, offset: 0, length: size, writable: true)
      }
      resource.store = PixelStore(mapping, cause)
    } catch {
      lender.account.dismissShadow(resource.size)
      throw Mistake(.outOfMemory, .store, "no memory for a copy of resource \(resource.id): \(error)")
    }
  }

  func dropStore(of resource: Resource) {
    guard let store = resource.store.take() else { return }
    lender.account.dismissShadow(resource.size)
    discard(store.mapping)
  }
}
