internal import CDRM
internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

// Framebuffers: an image's memory, layout and format as the card shows it.
extension KMSCard {
  /// Makes a framebuffer. The kernel holds its memory for as long as the framebuffer lives.
  ///
  /// - Throws: `importing`, `bouncing`, `format`, `stride`, or `other`, by the reason of the refusal.
  /// - The corresponding ioctls are `DRM_IOCTL_PRIME_FD_TO_HANDLE` and `DRM_IOCTL_MODE_ADDFB2`.
  func makeFramebuffer(
    _ memory: FrameMemory, _ layout: FrameLayout, for plane: KMSPlane?
  ) throws(SinkError) -> UInt32 {
    let (format, explicit) = try accept(layout, plane)
    let handle: UInt32
    switch memory {
    case .lent(let dmabuf):
      if let end = layout.end, end > dmabuf.size {
        throw SinkError(.other, "the image \(layout) needs \(end) bytes, but its dma-buf has \(dmabuf.size)")
      }
      handle = try importHandle(dmabuf)
    case .shadow(let memory):
      guard let buffer = memory as? DumbBuffer, buffer.card === file else {
        throw SinkError(.importing, "\(name) (\(driver)) did not allocate this memory")
      }
      handle = buffer.handle
    }
    // The framebuffer keeps the memory. An open handle would keep it for as long as the card is open. A dma-buf that
    // is imported twice has one handle, so no handle is held across two imports.
    defer { if case .lent = memory { closeHandle(handle) } }
    do throws(Errno) {
      return try addFramebuffer(handle, layout, format, modifier: explicit ? layout.modifier : nil)
    } catch { throw refusal(of: layout, error) }
  }

  /// - Returns: the format to ask for, and whether to name its modifier.
  private func accept(_ layout: FrameLayout, _ plane: KMSPlane?) throws(SinkError) -> (FourCC, explicit: Bool)
  {
    var format = layout.format
    if let plane {
      // Nothing lies behind the lowest plane, so its alpha means nothing.
      if let opaque = format.opaque, plane.formats.contains(opaque) { format = opaque }
      guard plane.formats.contains(format) else {
        let has = plane.formats.map(\.description).joined(separator: ", ")
        throw SinkError(.format, "\(name) (\(driver)) does not show the format \(format); it shows: \(has)")
      }
    }
    let known = plane?.modifiers?[format]
    if layout.modifier == 0, !takesModifiers || known.map({ !$0.contains(0) }) ?? false {
      return (format, false)
    }
    guard takesModifiers, known?.contains(layout.modifier) ?? true else {
      throw SinkError(
        .format,
        "\(name) (\(driver)) does not show \(format) with the modifier \(hex(layout.modifier)); use linear")
    }
    return (format, true)
  }

  /// The format for copies of pictures on a plane: the wanted one without its alpha, the wanted one, or another one
  /// of 32 bits.
  /// - Throws: `format`.
  func format(wanted: FourCC, for plane: KMSPlane) throws(SinkError) -> FourCC {
    // Nothing lies behind the lowest plane, so its alpha means nothing.
    let choices = [wanted.opaque, wanted, .xrgb8888].compactMap(\.self)
    guard
      let format = choices.first(where: plane.formats.contains)
        ?? plane.formats.first(where: { $0.bytesPerPixel == 4 })
    else {
      let has = plane.formats.map(\.description).joined(separator: ", ")
      throw SinkError(
        .format,
        "\(name) (\(driver)) shows no format of 32 bits to copy into; it shows: \(has)")
    }
    return format
  }

  func addFramebuffer(
    _ handle: UInt32, _ layout: FrameLayout, _ format: FourCC, modifier: UInt64?
  ) throws(Errno) -> UInt32 {
    var id: UInt32 = 0
    try file.call { card in
      unsafe withUnsafeArguments(handle, layout.stride, layout.offset) { handles, pitches, offsets in
        guard let modifier else {
          return unsafe drmModeAddFB2(
            card, layout.width, layout.height, format.rawValue, handles, pitches, offsets, &id, 0)
        }
        let modifiers = [modifier, 0, 0, 0]
        return unsafe drmModeAddFB2WithModifiers(
          card, layout.width, layout.height, format.rawValue, handles, pitches, offsets, modifiers, &id,
          UInt32(DRM_MODE_FB_MODIFIERS))
      }
    }
    return id
  }

  private func refusal(of layout: FrameLayout, _ error: Errno) -> SinkError {
    let refused = "\(name) (\(driver)) refused a framebuffer of \(layout): \(error); "
    if error == .invalidArgument, layout.stride % 64 != 0 {
      let better = (layout.width + 63) / 64 * 64
      return SinkError(
        .stride,
        refused + "most likely its stride, which many cards want to be a multiple of 64 or 256; "
          + "choose a width such as \(better)")
    }
    return SinkError(.other, refused + "use another mode or another card")
  }

  /// Removes a framebuffer. The kernel switches off a plane that shows it, and waits for a flip under way.
  /// The corresponding ioctl is `DRM_IOCTL_MODE_RMFB`.
  func removeFramebuffer(_ id: UInt32) { _ = try? file.call { drmModeRmFB($0, id) } }
}

/// The three arrays that describe up to four planes of a framebuffer. Only the first plane is used here.
private func withUnsafeArguments(
  _ handle: UInt32, _ pitch: UInt32, _ offset: UInt32,
  _ body: (UnsafePointer<UInt32>, UnsafePointer<UInt32>, UnsafePointer<UInt32>) -> CInt
) -> CInt {
  unsafe withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 12) { arrays in
    unsafe arrays.initialize(repeating: 0)
    unsafe (arrays[0], arrays[4], arrays[8]) = (handle, pitch, offset)
    let start = unsafe UnsafePointer(arrays.baseAddress!)
    return unsafe body(start, start + 4, start + 8)
  }
}
