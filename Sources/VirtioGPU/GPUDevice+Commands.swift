internal import Buffers
internal import Guest
internal import Logging
internal import Pictures
internal import Scanout
internal import Udmabuf
internal import Virtio

// What the commands mean, one function for each (virtio 1.3, 5.7.6.8). A guest's mistake is answered with the
// spec's error, counted by kind, and changes nothing.
extension GPUDevice {
  /// Why a command was refused: the answer, and for our log its kind and a sentence.
  struct Mistake: Error {
    let error: ResponseError
    let kind: String
    let message: String
    init(_ error: ResponseError, _ kind: String, _ message: String) {
      (self.error, self.kind, self.message) = (error, kind, message)
    }
  }

  /// - Throws: only what is wrong with the chain's memory; other mistakes are in the outcome.
  func execute(
    _ command: Command, _ context: UInt32, _ reader: inout ChainReader, _ memory: GuestMemory,
    _ decoder: inout CommandDecoder
  ) throws(VirtQueueError) -> Outcome {
    do throws(Mistake) {
      switch command {
      case .getDisplayInfo: return answerDisplayInfo()
      case .getEDID(let scanout) where has(Feature.edid): return try answerEDID(scanout)
      case .createResource(let id, let format, let width, let height):
        try create(id, format, width, height)
      case .unrefResource(let id): return try unref(id)
      case .setScanout(let scanout, let id, let area): try setScanout(scanout, id, area)
      case .flush(let id, let area):
        let resource = try resource(id, area, "RESOURCE_FLUSH")
        let flips = try flush(resource, area)
        // Nothing in a guest waits for the end of a frame of what is no blob, but for a driver that spins.
        return resource.image == nil ? .atFlip(flips) : .now(.ok)
      case .transferToHost(let id, let area, let offset): try transfer(id, area, offset)
      case .attachBacking(let id, let count):
        let resource = try attachable(id, count)
        let entries: [GuestRange]
        do throws(VirtQueueError) {
          entries = try decoder.pageList(count: count, &reader)
        } catch {
          throw Mistake(
            .invalidParameter, "malformedCommand", "RESOURCE_ATTACH_BACKING with \(count) entries: \(error)")
        }
        try attach(resource, entries, memory)
      case .detachBacking(let id): return try detach(id)
      case .createBlob(let id, let blob, let count) where has(Feature.resourceBlob):
        let entries: [GuestRange]
        try admit(id, blob, entries: count)
        do throws(VirtQueueError) { entries = try decoder.pageList(count: count, &reader) } catch {
          throw Mistake(
            .invalidParameter, "malformedCommand", "RESOURCE_CREATE_BLOB with \(count) entries: \(error)")
        }
        try createBlob(id, blob, entries, memory)
      case .setScanoutBlob(let scanout, let id, let area, let layout) where has(Feature.resourceBlob):
        try setScanout(scanout, id, area, layout)
      case .mapBlob(let id, let offset) where mapsHostMemory: return .whenDone(try map(id, offset))
      case .unmapBlob(let id) where mapsHostMemory: return .whenFree(nil, try unmap(id))
      case .createContext where has(Feature.virgl): try createContext(context)
      case .destroyContext where has(Feature.virgl): try destroyContext(context)
      case .attachToContext(let id) where has(Feature.virgl),
        .detachFromContext(let id) where has(Feature.virgl):
        try check(context: context)
        _ = try resource(id)
      case .submit(let size) where has(Feature.virgl): try submit(context, size)
      case .assignUUID(let id) where has(Feature.resourceUUID):
        return .now(.resourceUUID(assignUUID(try resource(id))))
      case .getEDID, .assignUUID, .createBlob, .setScanoutBlob, .mapBlob, .unmapBlob, .createContext,
        .destroyContext, .attachToContext, .detachFromContext, .submit, .updateCursor, .moveCursor, .unknown:
        throw unknown(command)
      }
      return .now(.ok)
    } catch {
      mistakes.report(error.kind, error.message)
      return .now(.error(error.error))
    }
  }

  func executeCursor(_ command: Command) -> Outcome {
    do throws(Mistake) {
      switch command {
      case .updateCursor(let scanout, let position, let id, let hotX, let hotY):
        try check(scanout)
        let image = id.rawValue == 0 ? nil : try cursorImage(try resource(id), hotX, hotY)
        setCursor(Int(scanout.rawValue), image.map { BlendedCursor(image: $0, position: position) })
      case .moveCursor(let scanout, let position, let id):
        try check(scanout)
        moveCursor(Int(scanout.rawValue), to: position, id)
      default: throw unknown(command)
      }
      return .now(.ok)
    } catch {
      mistakes.report(error.kind, error.message)
      return .now(.error(error.error))
    }
  }

  private func unknown(_ command: Command) -> Mistake {
    Mistake(
      .unspecified, "unknownCommand",
      "\(command.name) is not of a feature that was negotiated, or not for this queue")
  }

  // MARK: Looking things up

  func resource(_ id: ResourceID) throws(Mistake) -> Resource {
    guard let resource = resources[id] else {
      throw Mistake(.invalidResource, "invalidResource", "there is no resource \(id)")
    }
    return resource
  }

  private func resource(_ id: ResourceID, _ area: Rectangle, _ name: String) throws(Mistake) -> Resource {
    let resource = try resource(id)
    if let image = resource.image {
      guard area.fits(width: image.width, height: image.height) else {
        throw Mistake(
          .invalidParameter, "rectangle", "\(name): \(area) is not inside resource \(id), \(resource.form)")
      }
    }
    return resource
  }

  func check(_ scanout: ScanoutID) throws(Mistake) {
    guard scanout.rawValue < UInt32(outputs.count) else {
      throw Mistake(
        .invalidScanout, "invalidScanout", "there is no scanout \(scanout); \(outputs.count) are offered")
    }
  }

  // MARK: Resources

  private func create(
    _ id: ResourceID, _ format: UInt32, _ width: UInt32, _ height: UInt32
  ) throws(Mistake) {
    try checkNew(id)
    guard let fourcc = Resource.format(format) else {
      throw Mistake(
        .invalidParameter, "format",
        "there is no format \(format), as resource \(id) wants it; virtio-gpu has 1, 2, 3, 4, 67, 68, 121 and 134"
      )
    }
    // 16 bits a side are what KMS can show; they keep every size far inside 64 bits.
    guard (1...65535).contains(width), (1...65535).contains(height) else {
      throw Mistake(
        .invalidParameter, "size", "resource \(id) of \(width)x\(height) pixels; the limit is 65535x65535")
    }
    do throws(LendError) { try buffers.admitResource() } catch { throw refusal(error, id) }
    resources[id] = Resource(
      id: id, image: FrameLayout(width: width, height: height, format: fourcc, stride: width * 4))
  }

  func checkNew(_ id: ResourceID) throws(Mistake) {
    guard id.rawValue != 0, resources[id] == nil else {
      throw Mistake(.invalidResource, "invalidResource", "resource \(id) is taken already, or 0")
    }
  }

  private func attachable(_ id: ResourceID, _ count: UInt32) throws(Mistake) -> Resource {
    let resource = try resource(id)
    guard resource.buffer == nil else {
      throw Mistake(.unspecified, "backingTwice", "resource \(id) has a backing already; detach it first")
    }
    guard count > 0 else {
      throw Mistake(.invalidParameter, "emptyList", "resource \(id) is given a backing of 0 entries")
    }
    do throws(LendError) { try buffers.admitEntries(UInt64(count)) } catch { throw refusal(error, id) }
    return resource
  }

  func attach(
    _ resource: Resource, _ entries: [GuestRange], _ memory: GuestMemory
  ) throws(Mistake) {
    do throws(LendError) {
      let buffer = try buffers.take(entries, of: memory, length: resource.size, as: backing)
      // What was kept of an earlier backing gives way to this one.
      drop(resource.forgetPictures())
      dropStore(of: resource)
      resource.attach(buffer)
      share(resource)
      if case .shadow(let cause) = buffer.backing { announce(cause, resource) }
      logger.debug(
        """
        resource \(resource.id): \(resource.form), \(entries.count) entries in \(buffer.ranges.count) items, \
        \(buffer.dmabuf.map { "dma-buf inode \($0.inode)" } ?? "to be copied")
        """)
    } catch { throw refusal(error, resource.id) }
  }

  /// A limit that was met is out-of-memory to the guest; a list that makes no sense is its own mistake.
  func refusal(_ error: LendError, _ id: ResourceID) -> Mistake {
    let answer: ResponseError
    switch error {
    case .memory, .short: answer = .invalidParameter
    case .unaligned: answer = .invalidParameter
    default: answer = .outOfMemory
    }
    return Mistake(answer, error.kind, "resource \(id) cannot be lent: \(error)")
  }

  /// With the guest's own pages on the screen there is nothing to transfer. A copy takes over at the flush
  /// what is noted here.
  private func transfer(_ id: ResourceID, _ area: Rectangle, _ offset: UInt64) throws(Mistake) {
    let resource = try resource(id, area, "TRANSFER_TO_HOST_2D")
    guard let buffer = resource.buffer else {
      throw Mistake(.unspecified, "noBacking", "TRANSFER_TO_HOST_2D of resource \(id), which has no backing")
    }
    // Host and guest share a blob's bytes.
    guard let layout = resource.image, !area.isEmpty else { return }
    let bytes = UInt64(area.height - 1) * UInt64(layout.stride) + UInt64(area.width) * 4
    guard offset <= buffer.size, bytes <= buffer.size - offset else {
      throw Mistake(
        .invalidParameter, "rectangle",
        "TRANSFER_TO_HOST_2D: \(area) from offset \(offset) ends past the backing of resource \(id), "
          + "\(buffer.size) bytes")
    }
    let place = UInt64(area.y) * UInt64(layout.stride) + UInt64(area.x) * 4
    if backing != .lent, sink != nil, resource.store != nil || offset != place {
      try store(resource, layout, buffer, area, from: Int(offset), to: Int(place))
    }
    resource.wasTransferred = true
    for (_, _, picture) in resource.pictures {
      if case .shadow(let shadow) = picture { shadow.transferred = shadow.transferred.union(area) }
    }
  }

  private func unref(_ id: ResourceID) throws(Mistake) -> Outcome {
    let resource = try resource(id)
    resources[id] = nil
    buffers.dismissResource()
    let release = release(resource, keepingPicture: false)
    return .whenFree(release, endUse(of: resource))
  }

  private func detach(_ id: ResourceID) throws(Mistake) -> Outcome {
    let resource = try resource(id)
    guard resource.buffer != nil, resource.offer == nil else {
      throw Mistake(
        .unspecified, "noBacking",
        "RESOURCE_DETACH_BACKING of resource \(id), which has no backing of the guest's")
    }
    return .whenFree(release(resource, keepingPicture: true), nil)
  }

  // MARK: Scanouts

  private func setScanout(_ scanout: ScanoutID, _ id: ResourceID, _ area: Rectangle) throws(Mistake) {
    try check(scanout)
    if id.rawValue == 0 { return turnOff(Int(scanout.rawValue)) }
    let resource = try resource(id, area, "SET_SCANOUT")
    guard let image = resource.image else {
      throw Mistake(
        .invalidParameter, "blob",
        "SET_SCANOUT of resource \(id), a blob; that is what SET_SCANOUT_BLOB is for")
    }
    try show(resource, View(layout: image, source: area), scanout, "SET_SCANOUT")
  }

  /// An image that has no pages yet comes with a flush after it has some; a blob has its own from the start.
  func show(
    _ resource: Resource, _ view: View, _ scanout: ScanoutID, _ name: String
  ) throws(Mistake) {
    if view.source.isEmpty {
      throw Mistake(
        .invalidParameter, "rectangle", "\(name): \(view.source) of resource \(resource.id) is empty")
    }
    guard resource.bytes != nil || resource.image != nil else {
      throw Mistake(.unspecified, "noBacking", "\(name) of resource \(resource.id), which has no backing")
    }
    let index = Int(scanout.rawValue)
    bind(index, resource, view, try picture(resource, view, index))
  }
}
