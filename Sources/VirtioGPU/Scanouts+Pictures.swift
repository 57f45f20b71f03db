internal import Buffers
internal import Linux
internal import Logging
internal import Pictures
internal import Scanout

// The choice of a scanout's picture: the guest's own pages, or a copy if these cannot be shown.
extension Scanouts {
  /// At most this many frames of a resource are kept that nothing shows.
  private static let keptFrames = 16
  /// The kernel's limits are read again at most this often.
  private static let limitCheckInterval = TimeSpan.seconds(1)

  /// Chooses a picture for a scanout, and makes it if needed. An obstacle to lending may be gone since the last time.
  /// - Returns: nil if nobody can show it: no screen, or another master of the card. A later flush looks again.
  func picture(
    of resource: Resource, _ view: View, on scanout: GuestScanout
  ) throws(Mistake) -> Picture? {
    guard let maker, maker.sink.isAttended, resource.bytes != nil else { return nil }
    if let buffer = resource.buffer { lendAgain(resource, buffer) }
    let drawsCursor = drawsCursor(scanout) && backing != .lent
    let known = resource.picture(scanout.id, view) { picture in
      switch picture {
      case .lent: !drawsCursor
      case .shadow(let shadow): drawsCursor || shadow.cause.name != .noCursorPlane
      }
    }
    if let known { return known }

    var standing: ShadowCause?
    if case .shadow(let reason) = resource.buffer?.backing {
      if backing == .lent {
        throw Mistake(
          .unspecified, .hostMemory, "resource \(resource.id) cannot be shown: \(reason.message)")
      }
      standing = reason
    } else if let store = resource.store {
      standing = store.cause
    }
    var tried: Frame?
    func lent() -> Frame {
      let frame = lentFrame(of: resource, view.layout)
      tried = frame
      return frame
    }
    let verdict: PictureMaker.Verdict
    do throws(SinkError) {
      verdict = try maker.judge(
        lent(), source: view.source, on: scanout.id, standing: standing, drawsCursor: drawsCursor,
        choice: backing)
    } catch {
      if let tried { discard(tried, of: resource) }
      let refusal = refusal(error, resource, view, scanout.id)
      if error.refusal.isMendedByCopying { throw refusal }
      mistakes.report(refusal)
      return nil
    }
    switch verdict {
    case .lent(let frame):
      drop(resource.remember(.lent(frame), scanout.id, view))
      return .lent(frame)
    case .copied(let cause):
      if let tried { discard(tried, of: resource) }
      return try shadow(of: resource, view, on: scanout, cause, maker).map { .shadow($0) }
    }
  }

  /// The frame of a buffer that is lent, in this layout.
  private func lentFrame(of resource: Resource, _ layout: FrameLayout) -> Frame {
    guard let maker, let buffer = resource.buffer, let dmabuf = buffer.dmabuf else {
      preconditionFailure("a buffer is lent, or there is a cause why not")
    }
    if let known = resource.frames.first(where: { $0.layout == layout }) { return known }
    if resource.frames.count >= Self.keptFrames {
      for frame in resource.removeFrames(where: { $0.uses == 0 && !isBound(.lent($0)) }) { forget(frame) }
    }
    let frame = Frame(id: maker.newFrameID(), memory: .lent(dmabuf), layout: layout)
    buffersByFrame[frame.id] = buffer
    resource.add(frame)
    return frame
  }

  /// The sink refused the frame, which is forgotten unless it is shown elsewhere.
  private func discard(_ frame: Frame, of resource: Resource) {
    let isKnown = resource.pictures.contains { $0.picture.frame === frame }
    if isKnown || frame.uses > 0 || isBound(.lent(frame)) { return }
    _ = resource.removeFrames { $0 === frame }
    // The sink may have taken another part of it, or for another screen.
    forget(frame)
  }

  private func refusal(
    _ error: SinkError, _ resource: Resource, _ view: View, _ scanout: ScanoutID
  ) -> Mistake {
    Mistake(
      .unspecified, MistakeKind(error.refusal),
      "scanout \(scanout) cannot show \(view.source) of resource \(resource.id): \(error)")
  }

  /// Chooses the picture again after a change without a SET_SCANOUT.
  func rebind(_ scanout: GuestScanout) {
    guard let binding = scanout.binding,
      // Pixels of a lost backing stay as they were last copied.
      binding.resource.bytes != nil
    else { return }
    do throws(Mistake) {
      bind(
        scanout, binding.resource, binding.view,
        try picture(of: binding.resource, binding.view, on: scanout))
    } catch { mistakes.report(error) }
  }

  func isBound(_ picture: Picture) -> Bool {
    all.contains { $0.binding?.picture?.frame === picture.frame }
  }

  // MARK: Limits that may pass

  /// Tries again to lend a resource that exceeded a limit of the kernel, which root may have raised.
  private func lendAgain(_ resource: Resource, _ buffer: Buffer) {
    guard mayPass(buffer) else { return }
    lastLimitCheck = .now
    guard lender.lendAgain(buffer) else { return }
    logger.notice("resource \(resource.id) is lent from now on, and no longer copied")
    objects.share(resource)
    drop(resource.forgetPictures())
  }

  private func mayPass(_ buffer: Buffer) -> Bool {
    guard case .shadow(let cause) = buffer.backing, cause.mayPass else { return false }
    return lastLimitCheck.map { .now - $0 >= Self.limitCheckInterval } ?? true
  }

  /// Whether the reason for this copy is, or may be, gone.
  func isOutdated(_ shadow: Shadow, _ resource: Resource, _ scanout: GuestScanout) -> Bool {
    // The resource has new pages, or its pages are lent since. The old reason does not count for these.
    if !resource.pictures.contains(where: { $0.picture.frame === shadow.frame }) { return true }
    if shadow.cause.name == .noCursorPlane { return !drawsCursor(scanout) }
    return resource.buffer.map(mayPass) ?? false
  }

  // MARK: Copies

  /// Makes the memory for a copy, which is filled when it is presented.
  func shadow(
    of resource: Resource, _ view: View, on scanout: GuestScanout, _ cause: ShadowCause,
    _ maker: PictureMaker
  ) throws(Mistake) -> Shadow? {
    let bytes = UInt64(view.source.width) * UInt64(view.source.height) * 4
    do throws(LendError) { try admitShadow(bytes) } catch { throw Mistake(error, resource: resource.id) }
    defer { lender.account.dismissShadow(bytes) }
    let shadow: Shadow
    do throws(SinkError) {
      shadow = try maker.makeShadow(
        on: try allocate(view, on: scanout.id, maker), of: view, on: scanout.id, cause: cause)
    } catch {
      let refusal = refusal(error, resource, view, scanout.id)
      if error.refusal.isMendedByCopying { throw refusal }
      mistakes.report(refusal)
      return nil
    }
    lender.account.countShadow(shadow.size)
    shadows[cause.name, default: 0] += 1
    announce(cause, resource)
    logger.debug(
      """
      resource \(resource.id) on scanout \(scanout.id): \(view.source) copied to \(shadow.area) of \
      \(shadow.frame.layout)
      """)
    drop(resource.remember(.shadow(shadow), scanout.id, view))
    return shadow
  }

  /// Gives up copies that no scanout shows, before a new copy is refused.
  func admitShadow(_ bytes: UInt64) throws(LendError) {
    do throws(LendError) { try lender.account.admitShadow(bytes) } catch {
      giveUpWhatIsNotBound()
      try lender.account.admitShadow(bytes)
    }
  }

  /// The same for the descriptors of copies.
  private func allocate(
    _ view: View, on scanout: ScanoutID, _ maker: PictureMaker
  ) throws(SinkError) -> Canvas {
    let quotas = lender.account.quotas
    for isLast in [false, true] {
      let canvas = try maker.allocate(view, on: scanout)
      if canvas.memory.isBelow(quotas.ownDescriptors) { return canvas }
      if !isLast { giveUpWhatIsNotBound() }
    }
    throw SinkError(.other, LendError.descriptors(limit: quotas.descriptors).description)
  }

  private func giveUpWhatIsNotBound() {
    for resource in resources.values { drop(resource.forgetPictures { !isBound($0) }) }
  }

  /// Logs once for each cause that a resource is copied, why, and the remedy.
  func announce(_ cause: ShadowCause, _ resource: Resource) {
    guard announced.insert(cause.name).inserted else { return }
    let advice = advice(.copied(cause.name)).map { "; \($0)" } ?? ""
    logger.notice(
      """
      resource \(resource.id) and others like it are copied, not lent (\(cause.name.rawValue)): \
      \(cause.message)\(advice)
      """)
  }

  /// Drops these pictures. A copy is freed when nobody shows it any more.
  func drop(_ pictures: [Picture]) {
    for case .shadow(let shadow) in pictures { goneShadows.append(shadow) }
    finishShadows()
  }

  /// Frees dropped copies that nobody shows any more. A sink that still uses one after `Patience.pageReturn` is cut off,
  /// because the copy counts against the guest's quota.
  func finishShadows() {
    if goneShadows.isEmpty { return }
    let now = Instant.now
    var waits = false
    goneShadows.removeAll { shadow in
      let isBound = isBound(.shadow(shadow))
      if !isBound, shadow.frame.uses > 0, shadow.deadline == nil {
        shadow.deadline = now + patience.pageReturn
        waits = true
      }
      guard !isBound, shadow.frame.uses == 0 || (shadow.deadline ?? now) <= now else {
        shadow.frame.whenIdle = { [weak self] in self?.owner.wake() }
        return false
      }
      shadow.frame.whenIdle = nil
      sink?.forget(shadow.frame)
      lender.account.dismissShadow(shadow.size)
      discard(shadow.memory)
      return true
    }
    if waits { owner.armTimer() }
  }

  /// When the first sink is cut off from a dropped copy; nil if none is waited for.
  var shadowDeadline: Instant? { goneShadows.lazy.compactMap(\.deadline).min() }
}
