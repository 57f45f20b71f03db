internal import Buffers
internal import Guest
internal import Logging
internal import Pictures
internal import Scanout
internal import Tracing
internal import Udmabuf
internal import Virtio

// The commands' meanings, one function for each (virtio 1.3, 5.7.6.8). A guest's mistake changes nothing. It is answered
// with the spec's error, and counted by kind.
extension GPUDevice {
  func execute(
    _ command: Command, _ header: ControlHeader, of queue: CommandQueue, _ reader: inout ChainReader,
    _ decoder: inout CommandDecoder
  ) throws(VirtQueueError) -> Outcome {
    do throws(Mistake) {
      if queue === cursor {
        try executeCursor(command)
        return .now(.ok)
      }
      let memory = reader.memory
      switch command {
      case .getDisplayInfo: return answerDisplayInfo()
      case .getEDID(let scanout) where has(GPUFeature.edid): return try answerEDID(scanout)
      case .createResource(let id, let format, let width, let height):
        try create(id, format, width, height)
      case .unrefResource(let id): return try unref(id)
      case .setScanout(let scanout, let id, let area): try setScanout(scanout, id, area)
      case .flush(let id, let area):
        let resource = try resources.find(id, with: area, for: "RESOURCE_FLUSH")
        let flips = try scanouts.flush(resource, area)
        trace?.flush(id.rawValue, area)
        // Without a blob no guest waits for the end of a frame, except a driver that spins.
        return resource.image == nil ? .atFlip(flips) : .now(.ok)
      case .transferToHost(let id, let area, let offset): try transfer(id, area, offset)
      case .attachBacking(let id, let count):
        let resource = try attachable(id, count)
        let entries: [GuestRange]
        do throws(VirtQueueError) {
          entries = try decoder.pageList(count: count, &reader)
        } catch {
          throw Mistake(
            .invalidParameter, .malformedCommand, "RESOURCE_ATTACH_BACKING with \(count) entries: \(error)")
        }
        try attach(resource, entries, memory)
      case .detachBacking(let id): return try detach(id)
      case .createBlob(let id, let blob, let count) where has(GPUFeature.resourceBlob):
        let entries: [GuestRange]
        try check(id, blob, entries: count)
        do throws(VirtQueueError) { entries = try decoder.pageList(count: count, &reader) } catch {
          throw Mistake(
            .invalidParameter, .malformedCommand, "RESOURCE_CREATE_BLOB with \(count) entries: \(error)")
        }
        try createBlob(id, blob, entries, memory)
      case .setScanoutBlob(let scanout, let id, let area, let layout) where has(GPUFeature.resourceBlob):
        try setScanout(scanout, id, area, layout)
      case .mapBlob(let id, let offset):
        guard let region = usableHostRegion else { throw unknown(command) }
        return .whenDone(try region.map(try resources.find(id), at: offset))
      case .unmapBlob(let id):
        guard let region = usableHostRegion else { throw unknown(command) }
        return .whenFree(nil, try region.unmap(try resources.find(id)))
      case .createContext where has(GPUFeature.virgl): try contexts.create(header.contextID)
      case .destroyContext where has(GPUFeature.virgl): try contexts.destroy(header.contextID)
      case .attachToContext(let id) where has(GPUFeature.virgl),
        .detachFromContext(let id) where has(GPUFeature.virgl):
        try contexts.check(header.contextID)
        _ = try resources.find(id)
      case .submit(let size) where has(GPUFeature.virgl):
        try contexts.submit(to: header.contextID, bytes: size)
      case .assignUUID(let id) where has(GPUFeature.resourceUUID):
        return .now(.resourceUUID(objects.assignUUID(try resources.find(id))))
      case .getEDID, .assignUUID, .createBlob, .setScanoutBlob, .createContext, .destroyContext,
        .attachToContext, .detachFromContext, .submit, .updateCursor, .moveCursor, .unknown:
        throw unknown(command)
      }
      return .now(.ok)
    } catch {
      mistakes.report(error)
      return .now(.error(error.error))
    }
  }

  private func executeCursor(_ command: Command) throws(Mistake) {
    switch command {
    case .updateCursor(let scanout, let position, let id, let hotX, let hotY):
      let scanout = try scanouts.find(scanout)
      let image = id.rawValue == 0 ? nil : try scanouts.cursorImage(try resources.find(id), hotX, hotY)
      scanouts.setCursor(scanout, image.map { PlacedCursor(image: $0, position: position) })
    case .moveCursor(let scanout, let position, let id):
      scanouts.moveCursor(try scanouts.find(scanout), to: position, id)
    default: throw unknown(command)
    }
  }

  private func unknown(_ command: Command) -> Mistake {
    Mistake(
      .unspecified, .unknownCommand,
      "\(command.name) needs a feature that was not negotiated, or belongs to the other queue")
  }

  /// The region for memory of the host, if the driver may use it.
  var usableHostRegion: HostRegion? {
    has(GPUFeature.virgl) && has(GPUFeature.resourceBlob) ? hostRegion : nil
  }

  // MARK: Resources

  private func create(
    _ id: ResourceID, _ format: UInt32, _ width: UInt32, _ height: UInt32
  ) throws(Mistake) {
    try resources.checkNew(id)
    let image = try Resource.image(
      width, height, format, stride: width &* 4, for: "RESOURCE_CREATE_2D of resource \(id)")
    try resources.add(id) { Resource(id: id, image: image) }
    trace?.image(id.rawValue, image)
  }

  private func attachable(_ id: ResourceID, _ count: UInt32) throws(Mistake) -> Resource {
    let resource = try resources.find(id)
    guard resource.buffer == nil else {
      throw Mistake(.unspecified, .backingTwice, "resource \(id) has a backing already; detach it first")
    }
    guard count > 0 else {
      throw Mistake(
        .invalidParameter, .emptyList, "resource \(id) gets a backing of 0 entries; at least 1 is needed")
    }
    do throws(LendError) { try lender.account.checkEntries(UInt64(count)) } catch {
      throw Mistake(error, resource: id)
    }
    return resource
  }

  func attach(
    _ resource: Resource, _ entries: [GuestRange], _ memory: GuestMemory
  ) throws(Mistake) {
    let buffer: Buffer
    trace?.attach(resource.id.rawValue, entries, memory)
    do throws(LendError) {
      buffer = try lender.take(entries, of: memory, length: resource.size, as: scanouts.backing)
    } catch {
      trace?.detach(resource.id.rawValue)
      throw Mistake(error, resource: resource.id)
    }
    // The new backing replaces the copy that was kept of an earlier one.
    scanouts.drop(resource.forgetPictures())
    scanouts.dropStore(of: resource)
    resource.attach(buffer)
    objects.share(resource)
    if case .shadow(let cause) = buffer.backing { scanouts.announce(cause, resource) }
    logger.debug(
      """
      resource \(resource.id): \(resource.form), \(entries.count) entries in \(buffer.ranges.count) items, \
      \(buffer.dmabuf.map { "dma-buf inode \($0.inode)" } ?? "to be copied")
      """)
  }

  /// If the guest's own pages are on the screen, there is nothing to transfer. A copy takes the noted part over at the flush.
  private func transfer(_ id: ResourceID, _ area: Rectangle, _ offset: UInt64) throws(Mistake) {
    let resource = try resources.find(id, with: area, for: "TRANSFER_TO_HOST_2D")
    guard let buffer = resource.buffer else {
      throw Mistake(.unspecified, .noBacking, "TRANSFER_TO_HOST_2D of resource \(id), which has no backing")
    }
    // Host and guest share a blob's bytes.
    guard let image = resource.image, !area.isEmpty else { return }
    let bytes = UInt64(area.height - 1) * UInt64(image.stride) + UInt64(area.width) * 4
    guard offset <= buffer.size, bytes <= buffer.size - offset else {
      throw Mistake(
        .invalidParameter, .rectangle,
        "TRANSFER_TO_HOST_2D: \(area) from offset \(offset) ends past the backing of resource \(id), "
          + "\(buffer.size) bytes")
    }
    let place = UInt64(area.y) * UInt64(image.stride) + UInt64(area.x) * 4
    if resource.store != nil || offset != place, scanouts.mayCopy {
      try scanouts.store(area, of: resource, image, buffer, from: Int(offset), to: Int(place))
    }
    resource.noteTransfer(area)
  }

  private func unref(_ id: ResourceID) throws(Mistake) -> Outcome {
    let resource = try resources.find(id)
    resources.remove(id)
    trace?.destroy(id.rawValue)
    let pageReturn = scanouts.giveBack(resource, keepingPicture: false)
    return .whenFree(pageReturn, hostRegion?.endUse(of: resource))
  }

  private func detach(_ id: ResourceID) throws(Mistake) -> Outcome {
    let resource = try resources.find(id)
    guard resource.buffer != nil, resource.offer == nil else {
      throw Mistake(
        .unspecified, .noBacking,
        "RESOURCE_DETACH_BACKING of resource \(id), which has no backing of the guest's")
    }
    trace?.detach(id.rawValue)
    return .whenFree(scanouts.giveBack(resource, keepingPicture: true), nil)
  }

  // MARK: Scanouts

  private func setScanout(_ number: ScanoutID, _ id: ResourceID, _ area: Rectangle) throws(Mistake) {
    let scanout = try scanouts.find(number)
    if id.rawValue == 0 { return turnOff(scanout) }
    let resource = try resources.find(id, with: area, for: "SET_SCANOUT")
    guard let image = resource.image else {
      throw Mistake(
        .invalidParameter, .blob,
        "SET_SCANOUT of resource \(id), which is a blob; SET_SCANOUT_BLOB is for blobs")
    }
    try scanouts.show(resource, View(layout: image, source: area), on: scanout, for: "SET_SCANOUT")
    trace?.scanout(number.rawValue, id.rawValue, area)
  }

  func turnOff(_ scanout: GuestScanout) {
    scanouts.turnOff(scanout)
    trace?.scanoutOff(scanout.id.rawValue)
  }
}
