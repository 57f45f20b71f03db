internal import CDRM
internal import Linux
package import Scanout
internal import SystemPackage
package import Udmabuf

/// A graphics card with mode setting: opened, with every fact about it that does not change while it is used.
///
/// The card closes with the last reference; what it was made to show goes with it.
package final class KMSCard {
  /// As errors call it: its path, or `fd:N`.
  package let name: String
  /// The kernel driver, such as `bochs-drm`.
  package let driver: String
  /// Atomic commits work; otherwise the older calls are used, which can block in the driver.
  package let isAtomic: Bool
  /// A framebuffer can be given modifiers (`DRM_CAP_ADDFB2_MODIFIERS`).
  package let takesModifiers: Bool
  /// dma-bufs of others can be imported (`DRM_PRIME_CAP_IMPORT`); that a certain one is accepted is not said.
  package let imports: Bool
  /// Buffers of the card can be exported as dma-bufs (`DRM_PRIME_CAP_EXPORT`).
  package let exports: Bool
  /// The card can allocate plain buffers (`DRM_CAP_DUMB_BUFFER`).
  package let hasDumbBuffers: Bool
  package let connectors: [KMSConnector]
  /// The ids of the CRTCs; a CRTC's index is its place here.
  package let crtcs: [UInt32]
  package let planes: [KMSPlane]
  /// What a cursor must measure.
  let cursorSize: PixelSize
  /// By which the kernel's announcements name it.
  let number: DeviceNumber?
  let file: DRMFile
  /// Why its device would be given copies of the memory of others, which must not happen: see `DMAReach`, and
  /// `tryImport`.
  private var bouncing: String?
  var bounces: Bool { bouncing != nil }
  /// What `tryImport` could not do yet, as while udmabuf's size limit is 0.
  private var importTrial: UdmabufDevice?

  /// Drivers that accept a part of a framebuffer and then show it from its first pixel on, as seen on Linux
  /// 6.12 and 7.3. They copy the framebuffer to video memory as it is and scan out from the start of that.
  private static let showFromStart: Set = ["bochs-drm", "cirrus", "cirrus-qemu"]

  /// The driver shows a framebuffer from its first pixel on, whatever part is asked for.
  var showsFromStartOnly: Bool { Self.showFromStart.contains(driver) }

  package var cursorPlanes: Int { planes.count { $0.kind == .cursor } }

  /// Opens, finds or adopts the card that `target` says. The target's connectors are not looked at but by
  /// the sink.
  ///
  /// Whoever opens a card that has no DRM master becomes its master; use `becomeMaster` to be sure.
  /// - Parameter atomic: false to use the older calls even where atomic commits work.
  package convenience init(_ target: KMSTarget, atomic: Bool = true) throws(KMSError) {
    switch target.card {
    case .path(let path): try self.init(opening: path, atomic: atomic)
    case .descriptor(let number): try self.init(file: Self.adopt(number), atomic: atomic)
    case .auto: try self.init(file: Self.firstConnected(), atomic: atomic)
    }
  }

  private convenience init(opening path: FilePath, atomic: Bool) throws(KMSError) {
    try self.init(file: (Self.open(path), path.string), atomic: atomic)
  }

  private convenience init(file: (DRMFile, String), atomic: Bool) throws(KMSError) {
    try self.init(file.0, name: file.1, atomic: atomic)
  }

  private static func open(_ path: FilePath) throws(KMSError) -> DRMFile {
    do { return DRMFile(try FD.open(path, writable: true, nonblocking: true)) } catch {
      throw .cannotOpen(card: path.string, error)
    }
  }

  private static func adopt(_ number: CInt) throws(KMSError) -> (DRMFile, String) {
    let name = "fd:\(number)"
    do throws(Errno) {
      let fd = try FD.inherited(number)
      try fd.setNonblocking()
      return (DRMFile(fd), name)
    } catch { throw .cannotOpen(card: name, error) }
  }

  /// The paths of all cards, `/dev/dri/card0` first.
  static func paths() -> [FilePath] {
    // The kernel gives minors 0 to 63 to cards, and more only when these are used up.
    (0..<64).map { FilePath("/dev/dri/card\($0)") }.filter {
      do throws(Errno) { _ = try FD.open($0, writable: false) } catch {
        return error != .noSuchFileOrDirectory && error != .operationNotSupportedByDevice
      }
      return true
    }
  }

  private static func firstConnected() throws(KMSError) -> (DRMFile, String) {
    var found: [String] = []
    for path in paths() {
      do throws(KMSError) {
        let file = try open(path)
        guard let resources = try? file.resources(), !resources.crtcs.isEmpty else {
          throw .noModeSetting(card: path.string)
        }
        let connected = resources.connectors.contains { (try? file.connector($0))?.isConnected ?? false }
        if connected { return (file, path.string) }
        throw .nothingConnected(card: path.string)
      } catch { found.append(error.description) }
    }
    throw .noCard(found: found)
  }

  init(_ file: DRMFile, name: String, atomic: Bool) throws(KMSError) {
    self.file = file
    self.name = name
    guard let driver = try? file.driver() else { throw .noModeSetting(card: name) }
    self.driver = driver
    // Both before the planes are listed: without them the kernel hides planes and properties.
    _ = try? file.enable(client: DRM_CLIENT_CAP_UNIVERSAL_PLANES)
    isAtomic = atomic && (try? file.enable(client: DRM_CLIENT_CAP_ATOMIC)) != nil
    // Cards of virtual machines have a cursor plane only for those who say which pixel of it points.
    if isAtomic { _ = try? file.enable(client: DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT) }
    func side(_ capability: Int32) -> UInt32 {
      let side = file.capability(capability)
      return side == 0 ? CursorImage.side : UInt32(clamping: side)
    }
    cursorSize = PixelSize(width: side(DRM_CAP_CURSOR_WIDTH), height: side(DRM_CAP_CURSOR_HEIGHT))
    number = try? file.withFD { fd throws(Errno) in try fd.status().number }
    bouncing = number.flatMap { [driver] in DMAReach($0).shortfall(of: driver) }
    takesModifiers = file.capability(DRM_CAP_ADDFB2_MODIFIERS) != 0
    let prime = file.capability(DRM_CAP_PRIME)
    imports = prime & UInt64(DRM_PRIME_CAP_IMPORT) != 0
    exports = prime & UInt64(DRM_PRIME_CAP_EXPORT) != 0
    hasDumbBuffers = file.capability(DRM_CAP_DUMB_BUFFER) != 0
    guard let resources = try? file.resources() else {
      (connectors, crtcs, planes) = ([], [], [])
      return
    }
    do throws(Errno) {
      crtcs = resources.crtcs
      var connectors: [KMSConnector] = []
      // A connector can vanish between the two calls, as those of a dock do.
      for id in resources.connectors {
        if let connector = try? file.connector(id) { connectors.append(connector) }
      }
      self.connectors = connectors
      var planes: [KMSPlane] = []
      for id in try file.planes() { planes.append(try file.plane(id)) }
      self.planes = planes
    } catch { throw .call("listing its planes", card: name, error) }
  }

  // MARK: Master

  /// This descriptor may set modes.
  package var isMaster: Bool { file.isMaster }

  /// Makes sure that this process is DRM master. It stays so until `dropMaster`, or until it closes the card.
  /// - Throws: `masterHeld` if somebody else is, `masterRefused` if the kernel does not allow it.
  /// - The corresponding ioctl is `DRM_IOCTL_SET_MASTER`.
  package func becomeMaster() throws(KMSError) {
    if isMaster { return }
    do throws(Errno) { try file.call { drmSetMaster($0) } } catch {
      if error == .resourceBusy { throw .masterHeld(card: name, holder: masterHolder()) }
      let holder = masterHolder()
      throw holder == nil ? .masterRefused(card: name, error) : .masterHeld(card: name, holder: holder)
    }
  }

  /// The corresponding ioctl is `DRM_IOCTL_DROP_MASTER`.
  package func dropMaster() { _ = try? file.call { drmDropMaster($0) } }

  /// The program and the process that is master, if debugfs may be read, which takes root.
  private func masterHolder() -> String? {
    guard let digits = name.split(separator: "card").last, let minor = UInt32(digits),
      let text = try? readText(FilePath("/sys/kernel/debug/dri/\(minor)/clients"))
    else { return nil }
    return Self.masterHolder(clients: text)
  }

  /// Finds the master in debugfs's list of clients: name (which may hold blanks), process, device, then `y`
  /// for the master.
  static func masterHolder(clients text: String) -> String? {
    for line in text.split(separator: "\n").dropFirst() {
      let words = line.split(separator: " ")
      for index in words.indices.dropFirst().dropLast(2) {
        guard let process = UInt32(words[index]), UInt32(words[index + 1]) != nil else { continue }
        if words[index + 2] == "y" { return "\(words[..<index].joined(separator: " ")), process \(process)" }
      }
    }
    return nil
  }

  // MARK: Buffers

  /// Makes a framebuffer. The kernel holds its memory for as long as the framebuffer lives.
  ///
  /// - Throws: what was refused: `importing`, `format`, `stride`, or `other`.
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
    // The framebuffer keeps the memory; a handle that is left open would keep it for as long as the card is
    // open. A dma-buf that is imported twice has one handle, so it is never held across two imports.
    defer { if case .lent = memory { closeHandle(handle) } }
    do throws(Errno) {
      return try addFramebuffer(handle, layout, format, modifier: explicit ? layout.modifier : nil)
    } catch { throw refusal(of: layout, error) }
  }

  /// Finds out by trial whether the card is given the memory of others itself, where the kernel does not say that it is
  /// not: not every limit of a device or its bus is told.
  ///
  /// Where that cannot be found out yet, it is with the first import that can.
  func tryImport(_ udmabuf: UdmabufDevice) {
    if bounces { return }
    let isCopied = takesCopies(udmabuf)
    importTrial = isCopied == nil ? udmabuf : nil
    if isCopied == true { bouncing = "was given a copy of memory that was lent to it for a trial" }
  }

  /// Changes a dma-buf of our own while the card has it, and looks whether an old copy is written back. Up to Linux 7.1
  /// that shows a device that is given copies; from 7.2 on nothing is written back.
  /// - Returns: nil if no dma-buf can be made.
  func takesCopies(_ udmabuf: UdmabufDevice) -> Bool? {
    let (page, pages) = (4096, 64)
    guard let memfd = try? Memfd.create(name: "udmabridge-trial", size: UInt64(pages * page), seals: .shrink),
      let mapping = try? memfd.withDescriptor({ fd throws(Errno) in
        try Mapping(fd, offset: 0, length: pages * page, writable: true)
      }),
      let dmabuf = try? udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: UInt64(pages * page)))
    else { return nil }
    let (old, new) = (UInt64(0x6f6c64), UInt64(0x6e6577))
    for index in 0..<pages { mapping.store(old, at: index * page) }
    guard let handle = try? primeHandle(dmabuf) else { return false }
    for index in 0..<pages { mapping.store(new, at: index * page) }
    closeHandle(handle)
    return (0..<pages).contains { mapping.load(UInt64.self, at: $0 * page) != new }
  }

  /// The card's handle for a dma-buf, which the caller closes: the same one for each import of it.
  func importHandle(_ dmabuf: DMABuf) throws(SinkError) -> UInt32 {
    if let importTrial { tryImport(importTrial) }
    if let bouncing {
      throw SinkError(
        .bouncing,
        "the device of \(name) (\(driver)) \(bouncing): the kernel would give it a copy, in which nothing is seen of "
          + "what the guest draws later, and might write that back over the guest's memory; use an IOMMU, another card, "
          + "or a newer kernel"
      )
    }
    return try primeHandle(dmabuf)
  }

  private func primeHandle(_ dmabuf: DMABuf) throws(SinkError) -> UInt32 {
    var handle: UInt32 = 0
    do throws(Errno) {
      try dmabuf.withDescriptor { dmabuf throws(Errno) in
        try dmabuf.withRaw { dmabuf throws(Errno) in
          _ = try file.call { unsafe drmPrimeFDToHandle($0, dmabuf, &handle) }
        }
      }
    } catch {
      throw SinkError(
        .importing,
        "the driver \(driver) of \(name) does not import this dma-buf: \(error); "
          + "use another card, or a newer kernel's driver")
    }
    return handle
  }

  /// The format to ask for, and whether its modifier is to be said.
  private func accept(_ layout: FrameLayout, _ plane: KMSPlane?) throws(SinkError) -> (FourCC, explicit: Bool)
  {
    var format = layout.format
    if let plane {
      // Behind the lowest plane there is nothing that alpha could let through.
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

  /// The format in which a plane shows copies of pictures: the wanted one without its alpha, the wanted one, or
  /// what the plane has of 32 bits.
  /// - Throws: `format`.
  func format(wanted: FourCC, for plane: KMSPlane) throws(SinkError) -> FourCC {
    // Behind the lowest plane there is nothing that alpha could let through.
    let choices = [wanted.opaque, wanted, .xrgb8888].compactMap(\.self)
    guard
      let format = choices.first(where: plane.formats.contains)
        ?? plane.formats.first(where: { $0.bytesPerPixel == 4 })
    else {
      let has = plane.formats.map(\.description).joined(separator: ", ")
      throw SinkError(
        .format,
        "\(name) (\(driver)) shows no format of 32 bits, into which could be copied; it shows: \(has)")
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

  /// The corresponding ioctl is `DRM_IOCTL_MODE_RMFB`: a framebuffer that is shown is switched off, which
  /// waits for a flip under way.
  func removeFramebuffer(_ id: UInt32) { _ = try? file.call { drmModeRmFB($0, id) } }

  func closeHandle(_ handle: UInt32) { _ = try? file.call { drmCloseBufferHandle($0, handle) } }

  /// A buffer of the card's own for pixels of 32 bits, as a dma-buf for others, and the bytes from one row to the
  /// next. It lives as long as the dma-buf.
  ///
  /// - Throws: `other` for what the card does not do.
  package func share(width: UInt32, height: UInt32) throws(SinkError) -> (dmabuf: DMABuf, stride: UInt32) {
    let size = PixelSize(width: width, height: height)
    let buffer = try allocate(size)
    do throws(Errno) { return (try DMABuf(adopting: buffer.descriptor()), buffer.stride) } catch {
      throw SinkError(.other, "\(name) (\(driver)) gives no buffer of \(size) pixels away: \(error)")
    }
  }

  /// A buffer of the card's own for pixels of 32 bits.
  ///
  /// - Throws: `other` for what the card does not do.
  func allocate(_ size: PixelSize) throws(SinkError) -> DumbBuffer {
    do throws(Errno) { return try DumbBuffer(size, of: file) } catch {
      throw SinkError(.other, "\(name) (\(driver)) gave no buffer of \(size) pixels: \(error)")
    }
  }
}

/// The three arrays that describe up to four planes of a framebuffer, of which only the first is used here.
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
