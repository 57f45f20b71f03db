import Buffers
import Fixtures
import Foundation
import Guest
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing
import Tracing

@testable import VirtioGPU

/// What a device writes into a trace, and what the tool says of it.
@Suite struct TraceTests {
  private let directory: FilePath
  private let path: FilePath

  init() throws {
    directory = try makeTemporaryDirectory()
    path = directory.appending("trace")
  }

  /// What a device wrote in a session, and what the tool says of the file on a host that takes two items.
  private func session(
    _ rig: Rig, _ body: (Rig) throws -> Void
  ) throws -> (events: [TraceEvent], plan: [String: Any]) {
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let writer = TraceWriter(try FD.create(path), limit: 1 << 20) { Issue.record("\($0)") }
    rig.device.trace = DeviceTrace(writer, device: 0)
    try body(rig)
    writer.end()
    var (parser, events) = (TraceParser(), [TraceEvent]())
    try parser.feed(Array(readText(path).utf8)[...]) { events.append($1) }
    try parser.finish()
    let (status, output) = try run(
      builtPrograms.appending("udmabridge"),
      ["plan", "--json", "--items", "--list-limit", "2", "--size-limit-mb", "1", "--trace", path.string],
      withErrors: true)
    guard status == 0, let plan = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
    else { throw TroubleInTest(output) }
    #expect(events.last == .end(.stopped) && plan["end"] as? String == "stopped")
    return (events, plan)
  }

  private let one = TracedResource(device: 0, number: 1)
  private let whole = Rectangle(0, 0, 64, 48)

  private func ranges(_ list: [(address: UInt64, length: UInt32)]) -> [GuestRange] {
    list.map { GuestRange(address: GuestAddress($0.address), length: UInt64($0.length)) }
  }

  private func memory(_ rig: Rig) -> TraceEvent {
    .memory(
      rig.ram.memory.regions.map { region in
        LayoutLine(
          address: region.guestAddress, length: region.length,
          memory: "memfd-\(region.backing.memfd.status.inode)", offset: region.backing.offset, isSealed: true)
      })
  }

  @Test("a guest's commands are events in their order, and the tool joins each list as the device did")
  func commands() throws {
    let rig = try Rig(backing: .auto)
    let pages = rig.pages(3)
    // The same pages the other way round are neighbours.
    let joinable = Array(pages.reversed())
    var joined: [Int] = []
    func attach(_ list: [(address: UInt64, length: UInt32)]) throws {
      try rig.ok(Request.attach(1, list))
      joined.append(try #require(rig.device.resources[ResourceID(1)]?.buffer).ranges.count)
    }
    let (events, plan) = try session(rig) { rig in
      try rig.ok(Request.create(1))
      try attach(pages)
      try rig.ok(Request.setScanout(0, 1), Request.flush(1), Request.setScanout(0, 0), Request.detach(1))
      try attach(joinable)
      try rig.ok(Request.unref(1))
    }
    #expect(
      events == [
        .image(one, width: 64, height: 48, .xrgb8888), memory(rig), .attach(one, ranges(pages)),
        .scanout(0, one, whole), .flush(one, whole), .scanoutOff(0, device: 0), .detach(one),
        .attach(one, ranges(joinable)), .destroy(one), .end(.stopped),
      ])
    let lists = try #require(plan["lists"] as? [[String: Any]])
    #expect(joined == [3, 1] && lists.map { $0["itemCount"] as? Int } == joined)
    #expect(lists.map { $0["result"] as? String } == ["shadow", "lent"])
    #expect(plan["flushes"] as? [String: Int] == ["lent": 0, "shadow": 1, "other": 0])
  }

  @Test("a trace shows a refused blob as destroyed, and a refused list as detached")
  func refusals() throws {
    let rig = try Rig(backing: .auto)
    let pages = rig.pages(3)
    let hole = [(address: UInt64(1) << 50, length: UInt32(systemPageSize))]
    let (events, plan) = try session(rig) { rig in
      #expect(try rig.ask(Request.createBlob(1, size: systemPageSize, hole)).type != ResponseType.ok)
      try rig.ok(Request.createBlob(1, size: 3 * systemPageSize, pages), Request.setScanoutBlob(0, 1))
      // Nothing of a mistake that is made before there is a list.
      #expect(try rig.ask(Request.attach(1, pages)).type != ResponseType.ok)
      #expect(try rig.ask(Request.flush(7)).type != ResponseType.ok)
      try rig.ok(Request.detach(1))
      #expect(try rig.ask(Request.attach(1, hole)).type != ResponseType.ok)
    }
    let small = TraceEvent.blob(one, bytes: systemPageSize)
    let layout = FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256)
    #expect(
      events == [
        small, memory(rig), .attach(one, ranges(hole)), .detach(one), .destroy(one),
        .blob(one, bytes: 3 * systemPageSize), .attach(one, ranges(pages)),
        .blobScanout(0, one, whole, layout), .detach(one), .attach(one, ranges(hole)), .detach(one),
        .end(.stopped),
      ])
    #expect(plan["pageLists"] as? [String: Int] == ["lent": 0, "shadow": 1, "other": 2])
  }

  @Test("a trace has a reset and a new driver as starts, each with the resources made after it")
  func start() throws {
    let rig = try Rig(backing: .auto)
    let (events, plan) = try session(rig) { rig in
      try rig.ok(Request.create(1))
      rig.device.reset()
      try rig.start(0, rig.control, fresh: true)
      try rig.ok(Request.create(1))
    }
    let image = TraceEvent.image(one, width: 64, height: 48, .xrgb8888)
    #expect(events == [image, .start(device: 0), .start(device: 0), image, .end(.stopped)])
    #expect(plan["pageLists"] as? [String: Int] == ["lent": 0, "shadow": 0, "other": 0])
  }
}
