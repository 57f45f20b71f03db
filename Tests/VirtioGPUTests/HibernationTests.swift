import Buffers
import Fixtures
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// A guest that hibernates. Linux' driver of 7.3 turns its scanouts off and gives its rings up, sets new ones up when the
/// guest is back, shows what it showed, and only after that makes all its resources again, under the numbers that they
/// had: what comes before fails, as on any device that was reset.
@Suite struct HibernationTests {
  /// What the driver has: an image, a blob, and the cursor.
  private enum ID {
    static let image: UInt32 = 1
    static let blob: UInt32 = 2
    static let cursor: UInt32 = 3
  }

  private let size: UInt32 = 3 * 4096
  private let image: UInt64 = 0x10_0000
  private let blob: UInt64 = 0x20_0000
  private let cursor: UInt64 = 0x30_0000

  private func draw(_ machine: Machine, _ pixel: UInt32, at address: UInt64) {
    machine.ram.write([UInt8]((0..<size / 4).flatMap { _ in pixel.bytes }), at: address)
  }

  /// `virtio_gpu_object_restore_all`: each object as when it was made.
  private func makeAll(_ machine: Machine) throws {
    for request in [
      Request.create(ID.image), Request.attach(ID.image, [(image, size)]),
      Request.createBlob(ID.blob, size: UInt64(size), [(blob, size)]),
      Request.create(ID.cursor, format: 1, 64, 64), Request.attach(ID.cursor, [(cursor, 64 * 64 * 4)]),
    ] { #expect(try machine.ask(request).type == ResponseType.ok) }
  }

  private func showImage(_ machine: Machine, _ wanted: UInt32 = ResponseType.ok) throws {
    for request in [Request.transfer(ID.image), Request.setScanout(0, ID.image), Request.flush(ID.image)] {
      #expect(try machine.ask(request).type == wanted)
    }
  }

  private func askCursor(_ machine: Machine, _ request: [UInt8]) throws -> UInt32? {
    machine.cursor.send(request, answer: 24)
    machine.frontEnd.kickIfWanted(1, machine.cursor)
    try machine.link.settle()
    return machine.cursor.receive()?.bytes.value(at: 0)
  }

  private func expect(_ machine: Machine, shows pixel: UInt32) throws {
    machine.screen.flipAll()
    try machine.link.settle()
    let pixels = try #require(machine.screen.shown()).pixels()
    #expect(pixels.allSatisfy { $0 == pixel.bytes })
  }

  /// - Parameters:
  ///   - flipsBefore: the screen is dark before the rings stop; else the old frame is still on it when the driver is back.
  ///   - turnsOff: it turns its scanouts off before; else it is as after a hibernation that was broken off by a reset.
  @Test(
    "a guest that wakes from hibernation makes its resources again by the old numbers, and is shown",
    arguments: [true, false], [true, false]) func theOldNumbersAgain(
      flipsBefore: Bool, turnsOff: Bool
    ) throws
  {
    let machine = try Machine(.table, udmabuf: .failure(.noSuchFileOrDirectory), backing: .auto)
    draw(machine, 0x11, at: image)
    draw(machine, 0x22, at: blob)
    try makeAll(machine)
    try showImage(machine)
    #expect(try askCursor(machine, Request.updateCursor(0, ID.cursor)) == ResponseType.ok)
    try expect(machine, shows: 0x11)
    let before = machine.device.statistics

    for life in 1...3 as ClosedRange<UInt32> {
      if turnsOff {
        #expect(try askCursor(machine, Request.updateCursor(0, 0)) == ResponseType.ok)
        #expect(try machine.ask(Request.setScanout(0, 0)).type == ResponseType.ok)
      }
      if flipsBefore { machine.screen.flipAll() }
      _ = try machine.frontEnd.stop()
      try machine.replaceDriver()
      #expect(machine.device.resources.isEmpty)

      // The image of the guest's memory is back, and its resources are not.
      draw(machine, 0x30 + life, at: image)
      draw(machine, 0x40 + life, at: blob)
      try showImage(machine, ResponseType.invalidResource)
      #expect(try askCursor(machine, Request.updateCursor(0, ID.cursor)) == ResponseType.invalidResource)
      try makeAll(machine)
      try showImage(machine)
      #expect(try askCursor(machine, Request.updateCursor(0, ID.cursor)) == ResponseType.ok)
      try expect(machine, shows: 0x30 + life)
      #expect(try machine.ask(Request.setScanoutBlob(0, ID.blob)).type == ResponseType.ok)
      try machine.post(Request.flush(ID.blob, fence: UInt64(life)))
      try expect(machine, shows: 0x40 + life)
      #expect(machine.answer()?.fence == UInt64(life))
      try showImage(machine)
      try expect(machine, shows: 0x30 + life)
    }
    // Nothing of the earlier lives is left.
    _ = try machine.ask(Request.setScanout(0, 0))
    try machine.post(Request.unref(ID.blob))
    #expect(machine.answer()?.type == ResponseType.ok)
    machine.screen.flipAll()
    try machine.link.settle()
    let all = machine.device.statistics
    #expect(all.liveResources == before.liveResources - 1 && all.shadowBytes == before.shadowBytes)
    #expect(all.protocolErrors == ["invalidResource": 12])
    #expect(machine.link.end == nil)
  }
}
