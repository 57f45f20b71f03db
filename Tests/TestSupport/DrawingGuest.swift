internal import Fixtures
internal import Glibc
internal import Linux
internal import SystemPackage

/// A guest, as a helper sees it, that draws into pages of which no two are neighbours. It speaks to the program
/// through the front end of the tests.
package final class DrawingGuest {
  /// Of the pictures that it makes and shows, in pixels: whole pages, and a multiple of 64 across.
  package var width, height: Int
  private let ram: GuestRAM
  private let queues: [DriverQueue]
  private let frontEnd: FrontEnd
  private var pages: [UInt32: [UInt64]] = [:]
  private var blobs: Set<UInt32> = []

  package init(_ helper: Listening, width: Int = 64, height: Int = 48) throws {
    (self.width, self.height) = (width, height)
    ram = try GuestRAM.likeQEMU()
    queues = [DriverQueue(ram), DriverQueue(ram, size: 16)]
    frontEnd = try FrontEnd(helper.connect(), turn: FrontEnd.turns { helper.child.isRunning })
    try frontEnd.realize(memory: .table)
    try frontEnd.start(queues)
  }

  private func words(_ words: UInt32...) -> [UInt8] { words.flatMap(\.bytes) }

  /// A command and its answer, which must be OK (`VIRTIO_GPU_RESP_OK_NODATA`).
  private func command(_ type: UInt32, _ body: [UInt8], queue: Int = 0, fence: UInt32 = 0) throws {
    post(type, body, queue: queue, fence: fence)
    try expectAnswer(to: type, queue: queue)
  }

  private func post(_ type: UInt32, _ body: [UInt8], queue: Int = 0, fence: UInt32 = 0) {
    queues[queue].send(words(type, fence == 0 ? 0 : 1, fence, 0, 0, 0) + body, answer: 24)
    frontEnd.kick(queue)
  }

  private func expectAnswer(to type: UInt32, queue: Int = 0) throws {
    var answer: [UInt8]?
    // Most often it is there at once.
    for _ in 0..<2000 where answer == nil { answer = queues[queue].receive()?.bytes }
    // Else soon after that: where both take turns on one CPU, ten thousand waits add up.
    var pause: UInt32 = 20
    let deadline = Patience.deadline()
    while answer == nil {
      guard Instant.now < deadline else {
        throw TroubleInTest("command \(hex(type)): no answer in \(Patience.limit)")
      }
      usleep(pause)
      pause = min(pause * 2, 50_000)
      answer = queues[queue].receive()?.bytes
    }
    guard answer?.prefix(4) == [0x00, 0x11, 0, 0] else {
      throw TroubleInTest("command \(hex(type)): \(answer ?? [])")
    }
  }

  private var area: [UInt8] { words(0, 0, UInt32(width), UInt32(height)) }

  /// Makes a buffer of XR24 pixels with this number, as a blob where the device offers that.
  package func create(_ id: UInt32, asBlob: Bool = false) throws {
    let count = width * height * 4 / Int(systemPageSize)
    // Those of an earlier one of this number are free.
    var pages = self.pages[id] ?? []
    if pages.count != count {
      pages = (0..<count).map { _ in ram.allocate(Int(systemPageSize)) }.sorted(by: >)
      self.pages[id] = pages
    }
    let list = pages.flatMap { $0.bytes + words(UInt32(systemPageSize), 0) }
    if asBlob {
      blobs.insert(id)
      let size = UInt64(count) * systemPageSize
      return try command(0x10c, words(id, 1, 2, UInt32(pages.count)) + UInt64(0).bytes + size.bytes + list)
    }
    try command(0x101, words(id, 2, UInt32(width), UInt32(height)))
    try command(0x106, words(id, UInt32(pages.count)) + list)
  }

  /// The bytes of a picture: tiles of 64x64 pixels, each pixel a number of its own.
  package func picture(_ frame: UInt32) -> [UInt8] {
    let rows = (0..<UInt32(64)).map { y in
      let tile = (0..<UInt32(64)).flatMap { TestSupport.pixel($0, y, frame: frame).bytes }
      return [UInt8]((0..<width / 64).map { _ in tile }.joined())
    }
    var bytes: [UInt8] = []
    for y in 0..<height { bytes += rows[y % 64] }
    return bytes
  }

  /// Draws a picture, and says nothing of it.
  /// - Returns: its bytes.
  @discardableResult
  package func draw(_ id: UInt32, frame: UInt32) throws -> [UInt8] {
    let (bytes, page) = (picture(frame), Int(systemPageSize))
    for (index, address) in pages[id]!.enumerated() {
      ram.write(Array(bytes[index * page..<(index + 1) * page]), at: address)
    }
    return bytes
  }

  /// Draws a picture, and shows it.
  /// - Parameter fence: the number of a fence that the flush has; 0 for none.
  /// - Returns: its bytes.
  @discardableResult
  package func show(_ id: UInt32, frame: UInt32, fence: UInt32 = 0, scanout: UInt32 = 0) throws -> [UInt8] {
    let bytes = try draw(id, frame: frame)
    try command(0x105, area + UInt64(0).bytes + words(id, 0))
    if blobs.contains(id) {
      let layout = words(UInt32(width), UInt32(height), 2, 0) + words(UInt32(width) * 4, 0, 0, 0, 0, 0, 0, 0)
      try command(0x10d, area + words(scanout, id) + layout)
    } else {
      try command(0x103, area + words(scanout, id))
    }
    try flush(id, fence: fence)
    return bytes
  }

  package func flush(_ id: UInt32, fence: UInt32 = 0) throws {
    try command(0x104, area + words(id, 0), fence: fence)
  }

  /// Says that a part of a buffer, in pixels, is drawn and to be shown.
  package func flush(_ id: UInt32, x: UInt32, y: UInt32, width: UInt32, height: UInt32) throws {
    let part = words(x, y, width, height)
    try command(0x105, part + UInt64((Int(y) * self.width + Int(x)) * 4).bytes + words(id, 0))
    try command(0x104, part + words(id, 0))
  }

  /// Shows a cursor with its upper left pixel there, which is made of such pixels (blue, green, red, alpha).
  package func showCursor(_ id: UInt32, x: Int32, y: Int32, _ pixel: UInt32) throws {
    let bytes = 64 * 64 * 4
    let address = ram.allocate(bytes)
    ram.write((0..<64 * 64).flatMap { _ in pixel.bytes }, at: address)
    try command(0x101, words(id, 1, 64, 64))
    try command(0x106, words(id, 1) + address.bytes + words(UInt32(bytes), 0))
    let position = words(0, UInt32(bitPattern: x), UInt32(bitPattern: y), 0)
    try command(0x300, position + words(id, 0, 0, 0), queue: 1)
  }

  /// UPDATE_CURSOR without a resource.
  package func hideCursor() throws { try command(0x300, words(0, 0, 0, 0) + words(0, 0, 0, 0), queue: 1) }

  package func unref(_ id: UInt32, _ meanwhile: () throws -> Void = {}) throws {
    blobs.remove(id)
    post(0x102, words(id, 0))
    try meanwhile()
    try expectAnswer(to: 0x102)
  }

  /// Shows nothing.
  package func turnOff() throws { try command(0x103, area + words(0, 0)) }
}
