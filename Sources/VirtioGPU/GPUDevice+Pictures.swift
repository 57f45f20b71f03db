internal import Buffers
internal import Guest
internal import Linux
internal import Logging
internal import Pictures
internal import Scanout
internal import SystemPackage

// Which picture of a resource a scanout shows: the guest's own pages, or a copy where these cannot be shown.
extension GPUDevice {
  /// So many frames of one resource are kept, even if nothing shows them.
  private static let keptFrames = 16

  /// The frame of a buffer that is lent, in this layout; nil if it is not lent.
  private func lentFrame(_ resource: Resource, _ layout: FrameLayout) -> Frame? {
    guard let buffer = resource.buffer, let dmabuf = buffer.dmabuf else { return nil }
    if let known = resource.frames.first(where: { $0.layout == layout }) { return known }
    if resource.frames.count >= Self.keptFrames {
      for frame in resource.removeFrames(where: { $0.uses == 0 && !isBound(.lent($0)) }) { forget(frame) }
    }
    let frame = Frame(id: newFrameID(), memory: .lent(dmabuf), layout: layout)
    buffersByFrame[frame.id] = buffer
    resource.add(frame)
    return frame
  }

  /// The sink did not take it: it is not kept, unless it is shown elsewhere.
  private func discard(_ frame: Frame, of resource: Resource) {
    let isKnown = resource.pictures.contains { $0.picture.frame === frame }
    if isKnown || frame.uses > 0 || isBound(.lent(frame)) { return }
    _ = resource.removeFrames { $0 === frame }
    // It may have taken it with another part, or for another screen.
    forget(frame)
  }

  private func newFrameID() -> UInt64 {
    lastFrameID += 1
    return lastFrameID
  }

  /// Chooses a picture for a scanout, and makes it if it is the first time; nil if there is nobody
  /// to show it, no screen or another master of the card: a later flush looks again. What stood against lending may
  /// have passed since the last time.
  func picture(_ resource: Resource, _ view: View, _ index: Int) throws(Mistake) -> Picture? {
    guard let sink, sink.isAttended, resource.bytes != nil else { return nil }
    if let buffer = resource.buffer { lendAgain(resource, buffer) }
    let scanout = scanouts[index].id
    let blends = blends(index) && backing != .lent
    let known = resource.picture(scanout, view) { picture in
      switch picture {
      case .lent: !blends
      case .shadow(let shadow): blends || shadow.cause.name != .noCursorPlane
      }
    }
    if let known { return known }

    let cause: ShadowCause
    if case .shadow(let reason) = resource.buffer?.backing {
      if backing == .lent {
        throw Mistake(
          .unspecified, "hostMemory", "resource \(resource.id) cannot be shown: \(reason.message)")
      }
      cause = reason
    } else if let store = resource.store {
      cause = store.cause
    } else if blends {
      cause = Self.noCursorPlane
    } else if let lent = lentFrame(resource, view.layout) {
      do throws(SinkError) {
        try sink.prepare(lent, source: view.source, on: scanout)
        drop(resource.remember(.lent(lent), scanout, view))
        return .lent(lent)
      } catch {
        discard(lent, of: resource)
        guard error.refusal.isMendedByCopying else {
          report(refusal(error, resource, view, scanout))
          return nil
        }
        guard backing == .auto else { throw refusal(error, resource, view, scanout) }
        cause = ShadowCause(error)
      }
    } else {
      preconditionFailure("a buffer is lent, or there is a cause why not")
    }
    return try shadow(resource, view, index, cause).map { .shadow($0) }
  }

  private func report(_ mistake: Mistake) { mistakes.report(mistake.kind, mistake.message) }

  /// Tries once more what a limit of the kernel stood against: root may have raised it. No more often than once
  /// a second, since the limit is read for it.
  private func lendAgain(_ resource: Resource, _ buffer: Buffer) {
    guard mayPass(buffer) else { return }
    lastLimitCheck = monotonicNanoseconds()
    guard buffers.lendAgain(buffer) else { return }
    logger.notice("resource \(resource.id) is lent now, after it was copied")
    share(resource)
    drop(resource.forgetPictures())
  }

  private func mayPass(_ buffer: Buffer) -> Bool {
    guard case .shadow(let cause) = buffer.backing, cause.mayPass else { return false }
    return monotonicNanoseconds() - lastLimitCheck >= Self.limitCheckInterval
  }

  /// What made this copy necessary is, or may be, over.
  func isOutdated(_ shadow: Shadow, _ resource: Resource, _ index: Int) -> Bool {
    // The resource was given other pages, or these are lent since: what stood against the old ones says nothing of them.
    if !resource.pictures.contains(where: { $0.picture.frame === shadow.frame }) { return true }
    if shadow.cause.name == .noCursorPlane { return !blends(index) }
    return resource.buffer.map(mayPass) ?? false
  }

  private func refusal(
    _ error: SinkError, _ resource: Resource, _ view: View, _ scanout: ScanoutID
  ) -> Mistake {
    Mistake(
      .unspecified, error.refusal.rawValue,
      "scanout \(scanout) cannot show \(view.source) of resource \(resource.id): \(error)")
  }

  // MARK: Copies

  static let oddTransfer = ShadowCause(
    .oddTransfer,
    "the guest transfers from another place than that of the rectangle in the image, as no current driver does"
  )
  static let detached = ShadowCause(
    .detached, "the guest took the pages back, and what was in them stays to be shown as a copy")
  static let noCursorPlane = ShadowCause(
    .noCursorPlane,
    "the screen has no plane for the guest's cursor, which is drawn into a copy; --cursor plane or "
      + "--cursor off leaves it away")

  /// Says once for each cause that something is copied, why, and what to do about it.
  func announce(_ cause: ShadowCause, _ resource: Resource) {
    guard announcedCauses.insert(cause.name).inserted else { return }
    logger.notice(
      "resource \(resource.id) and others like it are copied, not lent (\(cause.name.rawValue)): \(cause.message)"
    )
  }

  /// Makes a copy's place; it is filled when it is presented.
  /// - Returns: nil if there is nobody to show it.
  private func shadow(
    _ resource: Resource, _ view: View, _ index: Int, _ cause: ShadowCause
  ) throws(Mistake) -> Shadow? {
    guard let sink else { preconditionFailure("copies are made for a sink") }
    let (scanout, source) = (scanouts[index].id, view.source)
    let bytes = UInt64(source.width) * UInt64(source.height) * 4
    do throws(LendError) { try admitShadow(bytes) } catch { throw refusal(error, resource.id) }
    defer { buffers.dismissShadow(bytes) }
    let shadow: Shadow
    do throws(SinkError) {
      let canvas = try allocate(view, on: scanout, of: sink)
      shadow = Shadow(canvas, of: view, frameID: newFrameID(), cause: cause)
      try sink.prepare(shadow.frame, source: canvas.layout.bounds, on: scanout)
    } catch {
      let refusal = refusal(error, resource, view, scanout)
      if error.refusal.isMendedByCopying { throw refusal }
      report(refusal)
      return nil
    }
    // The canvas may be larger than what was asked for; that it is there already is no reason to refuse it.
    buffers.statistics.shadowBytes += shadow.size
    buffers.statistics.shadows[cause.name.rawValue, default: 0] += 1
    announce(cause, resource)
    logger.debug(
      "resource \(resource.id) on scanout \(scanout): \(source) copied to \(shadow.area) of \(shadow.frame.layout)"
    )
    drop(resource.remember(.shadow(shadow), scanout, view))
    return shadow
  }

  /// Copies that no scanout shows are given up before another one is refused.
  private func admitShadow(_ bytes: UInt64) throws(LendError) {
    do throws(LendError) { try buffers.admitShadow(bytes) } catch {
      giveUpWhatIsNotBound()
      try buffers.admitShadow(bytes)
    }
  }

  private func giveUpWhatIsNotBound() {
    for resource in resources.values { drop(resource.forgetPictures { !isBound($0) }) }
  }

  /// The same for a copy's descriptors, of which some are kept for others.
  private func allocate(
    _ view: View, on scanout: ScanoutID, of sink: any ScanoutSink
  ) throws(SinkError) -> Canvas {
    for isLast in [false, true] {
      let canvas = try sink.allocate(
        width: view.source.width, height: view.source.height, format: view.layout.format, on: scanout)
      if canvas.memory.isBelow(buffers.quotas.ownDescriptors) { return canvas }
      if !isLast { giveUpWhatIsNotBound() }
    }
    throw SinkError(.other, LendError.descriptors(limit: buffers.quotas.descriptors).description)
  }

  private func isBound(_ picture: Picture) -> Bool {
    scanouts.contains { $0.binding?.picture?.frame === picture.frame }
  }

  /// These pictures are not to be chosen again. A copy goes when it is not shown any more.
  func drop(_ pictures: [Picture]) {
    for case .shadow(let shadow) in pictures { goneShadows.append(shadow) }
    finishShadows()
  }

  /// Who keeps one for longer than `Patience.release` is cut off: its memory counts as the guest's.
  func finishShadows() {
    if goneShadows.isEmpty { return }
    let now = monotonicNanoseconds()
    var waits = false
    goneShadows.removeAll { shadow in
      let isBound = isBound(.shadow(shadow))
      if !isBound, shadow.frame.uses > 0, shadow.deadline == nil {
        shadow.deadline = now + patience.release
        waits = true
      }
      guard !isBound, shadow.frame.uses == 0 || (shadow.deadline ?? now) <= now else {
        shadow.frame.whenIdle = { [weak self] in self?.wake() }
        return false
      }
      shadow.frame.whenIdle = nil
      sink?.forget(shadow.frame)
      buffers.dismissShadow(shadow.size)
      discard(shadow.memory)
      return true
    }
    if waits { armTimer() }
  }

  /// A resource keeps what is in it when its pages go back (virtio 1.3, 5.7.6.8: TRANSFER_TO_HOST_2D copies). It is
  /// taken over into memory of ours, and shown from there wherever the pages themselves are shown.
  func keepContent(_ resource: Resource) {
    guard backing != .lent, sink != nil, let buffer = resource.buffer else { return }
    let isChosen = scanouts.contains { $0.binding?.resource === resource }
    guard resource.wasTransferred || isChosen else { return }
    if resource.store == nil {
      do throws(Mistake) { try makeStore(resource, Self.detached) } catch { report(error) }
      if let store = resource.store { proceed(StoreCopy(all: buffer.bytes, store)) }
    }
    replaceLent(resource, Self.detached)
  }

  private func replaceLent(_ resource: Resource, _ cause: ShadowCause) {
    for index in scanouts.indices {
      guard let binding = scanouts[index].binding, binding.resource === resource,
        case .lent(let frame) = binding.picture
      else { continue }
      let wasShown = scanouts[index].last === frame
      do throws(Mistake) {
        let copy = try shadow(resource, binding.view, index, cause)
        bind(index, resource, binding.view, copy.map { .shadow($0) })
        if wasShown, copy != nil { present(index, damage: binding.view.source, ownInitiative: true) }
      } catch { report(error) }
    }
  }

  /// Shows it as it must be shown now, when that has changed without a SET_SCANOUT.
  func rebind(_ index: Int) {
    guard let binding = scanouts[index].binding,
      // What could not be kept of a backing that is gone stays as it was last copied.
      binding.resource.bytes != nil
    else { return }
    do throws(Mistake) {
      bind(index, binding.resource, binding.view, try picture(binding.resource, binding.view, index))
    } catch { report(error) }
  }

  // MARK: Memory of ours in place of the guest's

  /// Keeps what a transfer brings in memory of our own. All that came before is taken over from its own place.
  func store(
    _ resource: Resource, _ image: FrameLayout, _ buffer: Buffer, _ area: Rectangle, from offset: Int,
    to place: Int
  ) throws(Mistake) {
    let isNew = resource.store == nil
    if isNew { try makeStore(resource, Self.oddTransfer) }
    guard let store = resource.store else { return }
    let stride = Int(image.stride)
    proceed(
      StoreCopy(
        buffer.bytes, store, stride: stride,
        before: isNew ? StoreCopy.Rows(count: Int(image.height), length: stride, from: 0, to: 0) : nil,
        part: StoreCopy.Rows(count: Int(area.height), length: Int(area.width) * 4, from: offset, to: place)))
    guard isNew else { return }
    unshare(resource)
    replaceLent(resource, Self.oddTransfer)
    drop(resource.forgetPictures(where: \.isLent))
  }

  /// Makes room for all that is in the resource.
  private func makeStore(_ resource: Resource, _ cause: ShadowCause) throws(Mistake) {
    do throws(LendError) { try admitShadow(resource.size) } catch { throw refusal(error, resource.id) }
    let size = Int(resource.size)
    do throws(Errno) {
      let memfd = try Memfd.create(name: "udmabridge-store", size: resource.size)
      let mapping = try memfd.withDescriptor { fd throws(Errno) in
        try Mapping(fd, offset: 0, length: size, writable: true)
      }
      resource.store = PixelStore(mapping, cause)
    } catch {
      buffers.dismissShadow(resource.size)
      throw Mistake(.outOfMemory, "store", "no memory for a copy of resource \(resource.id): \(error)")
    }
  }

  func dropStore(of resource: Resource) {
    guard let store = resource.store.take() else { return }
    buffers.dismissShadow(resource.size)
    discard(store.mapping)
  }
}
