import CDRM
import Glibc
import Linux
import Logging
import Scanout
import Synchronization
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import KMS

/// A frame in scattered pages of a memfd, as a guest's are, with a picture that differs for each `number`.
final class Picture {
  let frame: Frame
  /// The dma-buf of a frame that is lent.
  let dmabuf: DMABuf!
  let memory: Mapping
  let layout: FrameLayout
  private static let count = Mutex(UInt64(0))

  private static func nextID() -> UInt64 {
    count.withLock {
      $0 += 1
      return $0
    }
  }

  init(_ layout: FrameLayout, udmabuf: UdmabufDevice) throws {
    let pages = Int(layout.pages / systemPageSize)
    let memfd = try Memfd.create(name: "picture", size: layout.pages, seals: .shrink)
    // The picture's first page is the memfd's last one, and so on: paint through the dma-buf.
    dmabuf = try TestHost.withUdmabufLimits(items: 16384) {
      try udmabuf.create(scatteredRanges(of: memfd, pages: pages))
    }
    frame = Frame(id: Self.nextID(), memory: .lent(dmabuf), layout: layout)
    memory = try dmabuf.map(writable: true)
    self.layout = layout
  }

  init(_ canvas: Canvas) {
    dmabuf = nil
    frame = Frame(id: Self.nextID(), memory: .shadow(canvas.memory), layout: canvas.layout)
    (memory, layout) = (canvas.memory.mapping, canvas.layout)
  }

  /// Paints all of it, or the rows and columns of `part`.
  func paint(_ number: UInt32, _ part: Rectangle? = nil) {
    let part = part ?? layout.bounds
    for row in part.y..<part.y + part.height {
      let pixels = Pattern.inFrame(row, part.x, part.width, number)
      memory.store(unsafe pixels.span.bytes, at: Int(row * layout.stride + part.x * 4))
    }
  }
}

/// A colour for each pixel, so that one which is out of place shows. Rows repeat after 64, but for their
/// first pixel, so that painting and comparing is fast without optimisation too.
enum Pattern {
  private struct Key: Hashable {
    let row, x, width, number: UInt32
  }
  private struct Row {
    var inFrame: [UInt8] = []
    var inScreenshot: [UInt8] = []
  }
  private static let rows = Mutex<[Key: Row]>([:])

  private static func row(_ y: UInt32, _ x: UInt32, _ width: UInt32, _ number: UInt32) -> Row {
    let key = Key(row: y % 64, x: x, width: width, number: number)
    return rows.withLock { rows in
      if let known = rows[key] { return known }
      var row = Row()
      for x in x..<x + width {
        let red = UInt8(truncatingIfNeeded: x &* 3 &+ number &* 50)
        let green = UInt8(truncatingIfNeeded: key.row &* 4)
        let blue = UInt8(truncatingIfNeeded: (x >> 5) &* 7 ^ number)
        row.inFrame += [blue, green, red, 0]
        row.inScreenshot += [red, green, blue]
      }
      rows[key] = row
      return row
    }
  }

  /// A row as it lies in a frame.
  static func inFrame(_ y: UInt32, _ x: UInt32, _ width: UInt32, _ number: UInt32) -> [UInt8] {
    var bytes = row(y, x, width, number).inFrame
    if x == 0 { (bytes[0], bytes[1], bytes[2]) = (0x5a, UInt8(truncatingIfNeeded: y), UInt8(y >> 8)) }
    return bytes
  }

  /// A row as it lies in a screenshot.
  static func inScreenshot(_ y: UInt32, _ x: UInt32, _ width: UInt32, _ number: UInt32) -> [UInt8] {
    var bytes = row(y, x, width, number).inScreenshot
    if x == 0 { (bytes[0], bytes[1], bytes[2]) = (UInt8(y >> 8), UInt8(truncatingIfNeeded: y), 0x5a) }
    return bytes
  }
}

/// Hears everything that a sink tells.
final class Recorder: ScanoutObserver {
  var presented: [UInt64] = []
  var replaced: [UInt64] = []
  var failed: [(sequence: UInt64, error: SinkError)] = []
  var whenPresented: ((UInt64) -> Void)?

  func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
    presented.append(sequence)
    whenPresented?(sequence)
  }
  func replaced(_ sequence: UInt64, on scanout: ScanoutID) { replaced.append(sequence) }
  func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    failed.append((sequence, error))
  }
  var changes = 0
  func outputsChanged() { changes += 1 }
}

/// A sink on the test host's card, with its loop and its observer.
final class Stage {
  static let path = KMSTarget(.path("/dev/dri/card0"))
  let loop: EventLoop
  let sink: KMSSink
  let recorder = Recorder()
  let udmabuf: UdmabufDevice
  private(set) var turns = 0
  private var sequence: UInt64 = 0

  init(_ card: KMSCard? = nil, atomic: Bool = true, connectors: [String] = []) throws {
    loop = try EventLoop()
    udmabuf = try UdmabufDevice()
    sink = try KMSSink(
      card ?? KMSCard(Self.path, atomic: atomic), connectors: connectors, udmabuf: udmabuf, loop: loop,
      log: Logger(label: "test"))
    sink.observer = recorder
    // Longer than any test takes, so that none depends on how busy the machine is.
    (sink.patience, sink.flipPatience) = (.seconds(3600), .seconds(3600))
  }

  /// The size that the screen likes best, with the rows close together.
  var layout: FrameLayout {
    get throws {
      let mode = try #require(sink.outputs.first?.modes.first)
      return FrameLayout(
        width: UInt32(mode.hdisplay), height: UInt32(mode.vdisplay), format: .xrgb8888,
        stride: UInt32(mode.hdisplay) * 4)
    }
  }

  func picture(_ number: UInt32? = nil, prepared: Bool = true) throws -> Picture {
    let picture = try Picture(layout, udmabuf: udmabuf)
    if let number { picture.paint(number) }
    if prepared { try prepare(picture) }
    return picture
  }

  func prepare(_ picture: Picture, on scanout: UInt32 = 0) throws {
    try sink.prepare(picture.frame, source: picture.layout.bounds, on: ScanoutID(scanout))
  }

  /// A prepared picture in memory of the card's.
  func copy(
    _ number: UInt32, _ width: UInt32, _ height: UInt32, on scanout: UInt32 = 0
  ) throws -> Picture {
    let canvas = try sink.allocate(width: width, height: height, format: .xrgb8888, on: ScanoutID(scanout))
    let picture = Picture(canvas)
    picture.paint(number)
    try prepare(picture, on: scanout)
    return picture
  }

  /// - Returns: its sequence number.
  @discardableResult
  func present(_ picture: Picture, damage: Rectangle? = nil, on scanout: UInt32 = 0) -> UInt64 {
    sequence += 1
    let bounds = picture.layout.bounds
    sink.present(
      Presentation(frame: picture.frame, source: bounds, damage: damage ?? bounds, sequence: sequence),
      on: ScanoutID(scanout))
    return sequence
  }

  /// Turns the loop until something is so, of which events of the loop tell.
  func wait(_ location: SourceLocation = #_sourceLocation, until done: () -> Bool) throws {
    // Looked at before the first turn, and after each.
    turns -= 1
    try loop.turn(until: "what \(location) waits for", isToldOf: true) {
      turns += 1
      return done()
    }
  }

  /// Lets everything settle that the card was told.
  func settle() throws { try wait { sink.lanes.allSatisfy { $0.work == nil } } }

  /// Presents and waits until it is on the screen.
  func show(_ picture: Picture, damage: Rectangle? = nil, on scanout: UInt32 = 0) throws {
    let failures = recorder.failed.count
    let sequence = present(picture, damage: damage, on: scanout)
    try wait { recorder.presented.contains(sequence) || recorder.failed.count > failures }
    #expect(recorder.failed.count == failures, "\(recorder.failed)")
  }
}

/// The card as somebody else sees it, who is not its master.
struct Witness {
  let file: DRMFile

  init() throws {
    file = DRMFile(try FD.open("/dev/dri/card0", writable: true, nonblocking: true))
    // Without that the kernel hides the properties of planes.
    try file.enable(client: DRM_CLIENT_CAP_ATOMIC)
  }

  var crtc: drmModeCrtc {
    get throws { try file.crtc(#require(file.resources().crtcs.first)) }
  }

  /// What a plane shows, and with which properties.
  func plane(_ id: UInt32) throws -> (framebuffer: UInt32, properties: [String: DRMProperty]) {
    let properties = try file.properties(of: id, UInt32(DRM_MODE_OBJECT_PLANE))
    return (UInt32(properties["FB_ID"]?.value ?? 0), properties)
  }

  /// The memory of a framebuffer, mapped.
  func memory(of framebuffer: UInt32) throws -> (mapping: Mapping, stride: Int) {
    var (handle, stride, height) = (UInt32(0), 0, 0)
    try file.call {
      guard let fb = unsafe drmModeGetFB2($0, framebuffer) else { return -1 }
      unsafe (handle, stride, height) = (
        fb.pointee.handles.0, Int(fb.pointee.pitches.0), Int(fb.pointee.height)
      )
      unsafe drmModeFreeFB2(fb)
      return 0
    }
    defer { _ = try? file.call { drmCloseBufferHandle($0, handle) } }
    var place: UInt64 = 0
    try file.call { unsafe drmModeMapDumbBuffer($0, handle, &place) }
    let mapping = try file.withFD { card throws(Errno) in
      try Mapping(card, offset: place, length: stride * height, writable: false)
    }
    return (mapping, stride)
  }

  /// The inode of the dma-buf that the first CRTC shows, or nil if it shows nothing.
  func shownInode() throws -> UInt64? {
    let id = try crtc.buffer_id
    if id == 0 { return nil }
    var handle: UInt32 = 0
    try file.call {
      guard let fb = unsafe drmModeGetFB2($0, id) else { return -1 }
      handle = unsafe fb.pointee.handles.0
      unsafe drmModeFreeFB2(fb)
      return 0
    }
    defer { _ = try? file.call { drmCloseBufferHandle($0, handle) } }
    var number: CInt = -1
    try file.call { unsafe drmPrimeHandleToFD($0, handle, 0, &number) }
    return try DMABuf(adopting: FD(adopting: number)).inode
  }
}

/// What is on the test host's screen, seen from outside of it.
struct Screenshot {
  let width, height: UInt32
  private let pixels: [UInt8]

  init(head: Int = 0) throws {
    let path = "/tmp/screen-\(getpid())-\(head).ppm"
    let tool = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    let status = unsafe system("/\(tool)/qemu/screenshot --head \(head) \(path)")
    try #require(status == 0)
    defer { unsafe unlink(path) }
    let fd = try FD.open(FilePath(path), writable: false)
    var bytes: [UInt8] = []
    while case let more = try fd.read(upTo: 1 << 20), !more.isEmpty { bytes += more }
    // P6, width, height, 255, each followed by one white space.
    var words: [String] = []
    var start = 0
    while words.count < 4 {
      let end = try #require(bytes[start...].firstIndex { $0 == 0x20 || $0 == 0x0a })
      words.append(String(decoding: bytes[start..<end], as: UTF8.self))
      start = end + 1
    }
    try #require(words[0] == "P6" && words[3] == "255")
    (width, height) = (try #require(UInt32(words[1])), try #require(UInt32(words[2])))
    pixels = Array(bytes[start...])
    try #require(pixels.count == Int(width * height * 3))
  }

  /// How many rows of `part` are not those of the pattern.
  /// - Parameter origin: where in the screen the pattern's first pixel is.
  func wrongRows(
    _ number: UInt32, _ part: Rectangle? = nil, from origin: (x: UInt32, y: UInt32) = (0, 0)
  ) -> Int {
    let part = part ?? Rectangle(x: 0, y: 0, width: width, height: height)
    return (part.y..<part.y + part.height).count { row in
      let wanted = Pattern.inScreenshot(row - origin.y, part.x - origin.x, part.width, number)
      let start = Int((row * width + part.x) * 3)
      return unsafe pixels.withUnsafeBytes { unsafe memcmp($0.baseAddress! + start, wanted, wanted.count) }
        != 0
    }
  }

  /// Every pixel of `part` is black.
  func isBlack(_ part: Rectangle) -> Bool {
    (part.y..<part.y + part.height).allSatisfy { row in
      let start = Int((row * width + part.x) * 3)
      return pixels[start..<start + Int(part.width) * 3].allSatisfy { $0 == 0 }
    }
  }
}

/// The screens of the test host's card, plugged in and out.
enum Plug {
  /// Forces a connector to be connected or not. Where the driver does not announce that as it would announce a real
  /// change, this does.
  static func set(_ connector: String, _ isIn: Bool) throws {
    try TestHost.write(isIn ? "on" : "off", to: FilePath("/sys/class/drm/card0-\(connector)/status"))
    try TestHost.write("change", to: "/sys/class/drm/card0/uevent")
  }
}
