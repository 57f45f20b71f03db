import Buffers
import Fixtures
import Guest
import Linux
import Scanout
import Testing

@testable import VirtioGPU

/// How answers lie in memory (virtio 1.3, 5.7.6.7 and 5.7.6.8).
@Suite struct LayoutTests {
  @Test("GET_DISPLAY_INFO has the layout of the spec") func displayInfo() throws {
    let answer = try Rig().ask(Request.displayInfo(), room: 408)
    #expect(answer.type == ResponseType.displayInfo && answer.written == 408)
    // struct virtio_gpu_display_one: rectangle, enabled, flags. Scanouts stand side by side.
    var expected = Request.words([0, 0, 1024, 768, 1, 0]) + Request.words([1024, 0, 640, 480, 1, 0])
    expected += [UInt8](repeating: 0, count: 14 * 24)
    #expect(Array(answer.bytes[24...]) == expected)
  }

  @Test("an output without modes is not enabled") func anOutputWithoutModesIsNotEnabled() throws {
    let outputs = [SinkOutput(name: "A", modes: []), Rig.outputs[1]]
    let answer = try Rig(outputs: outputs).ask(Request.displayInfo())
    #expect(Array(answer.bytes[24..<48]) == [UInt8](repeating: 0, count: 24))
    #expect(Array(answer.bytes[48..<72]) == Request.words([0, 0, 640, 480, 1, 0]))
  }

  @Test("GET_DISPLAY_INFO has room for sixteen scanouts") func sixteenScanouts() throws {
    let outputs = (0..<16).map { SinkOutput(name: "\($0)", modes: Rig.outputs[1].modes) }
    let rig = try Rig(outputs: outputs)
    let answer = try rig.ask(Request.displayInfo())
    #expect(answer.written == 408)
    for index in 0..<16 {
      let one = Array(answer.bytes[(24 + 24 * index)..<(48 + 24 * index)])
      #expect(one == Request.words([640 * UInt32(index), 0, 640, 480, 1, 0]))
    }
    #expect(rig.device.config(offset: 8, size: 4) == [16, 0, 0, 0])
  }

  /// struct virtio_gpu_resp_edid: header, size, padding, 1024 bytes.
  @Test("GET_EDID has the layout of the spec", arguments: [0, 1] as [UInt32]) func edid(_ scanout: UInt32)
    throws
  {
    let answer = try Rig().ask(Request.edid(scanout), room: 1056)
    #expect(answer.type == ResponseType.edid && answer.written == 1056)
    let size: UInt32 = answer.bytes.value(at: 24)
    #expect(size == 128)
    #expect(answer.bytes.value(at: 28) as UInt32 == 0)
    let edid = Array(answer.bytes[32..<160])
    #expect(edid == EDID.make(Rig.outputs[Int(scanout)], serial: scanout + 1))
    #expect(answer.bytes[160...].allSatisfy { $0 == 0 })
  }

  /// A front end may have more scanouts than the sink has outputs.
  @Test("a scanout without an output has an empty EDID", arguments: [2, 15] as [UInt32])
  func aScanoutWithoutOutputHasNoEDID(_ scanout: UInt32) throws {
    let rig = try Rig()
    let answer = try rig.ask(Request.edid(scanout))
    #expect(answer.type == ResponseType.edid && answer.bytes.value(at: 24) as UInt32 == 0)
    #expect(rig.errors.isEmpty)
  }

  /// 5.7.6.7: the fence flag, its id and the context come back, and with a fence the number of its ring and the flag
  /// of that; other flags do not.
  @Test(
    "the answer repeats the header's fence, context and ring",
    arguments: [
      ("no fence", nil, 0, 0, 0, 0), ("a fence", 0x1122_3344_5566_7788, 0, 0, 1, 0x1122_3344_5566_7788),
      ("fence 0", 0, 0, 0, 1, 0), ("the largest fence", .max, 7, 0, 1, .max), ("a context", nil, 9, 0, 0, 0),
      ("a ring without a fence", nil, 0, 2, 0, 0), ("a fence of a ring", 5, 1, 2, 3, 5),
      ("wild flags", 3, 0xffff_ffff, 0xffff_fffe, 3, 3),
    ] as [(String, UInt64?, UInt32, UInt32, UInt32, UInt64)])
  func headerComesBack(
    _ name: String, _ fence: UInt64?, _ context: UInt32, _ more: UInt32, _ flags: UInt32, _ id: UInt64
  ) throws {
    let rig = try Rig()
    for (type, response) in [(0x100, ResponseType.displayInfo), (0x999, ResponseType.unspecified)] {
      var header = Request.header(UInt32(type), fence: fence, context: context, moreFlags: more)
      // A byte, and three of padding.
      header.replaceSubrange(20..<24, with: [0x3f, 0xaa, 0xbb, 0xcc])
      let answer = try rig.ask(header)
      #expect(answer.type == response && answer.flags == flags && answer.fence == id)
      #expect(answer.context == context)
      #expect(answer.bytes.value(at: 20) as UInt32 == (fence == nil ? 0 : 0x3f))
    }
  }

  /// What a chain's descriptors are cut into must not matter.
  @Test("a command may be cut into any descriptors", arguments: [1, 2, 3, 7, 24, 31, 40])
  func commandInPieces(_ pieces: Int) throws {
    let rig = try Rig()
    #expect(try rig.ask(Request.create(5, format: 1, 300, 200), pieces: pieces).type == ResponseType.ok)
    let resource = try #require(rig.device.resources[ResourceID(5)])
    #expect(
      resource.image == FrameLayout(width: 300, height: 200, format: .argb8888, stride: 1200))
  }

  @Test("an answer may be cut into any descriptors", arguments: [1, 2, 5, 24, 25, 407, 408, 1056])
  func answerInPieces(_ pieces: Int) throws {
    let rig = try Rig()
    let whole = try rig.ask(Request.edid(0), room: 1056)
    let pieced = try rig.ask(Request.edid(0), room: 1056, answerPieces: pieces)
    #expect(pieced.written == 1056 && pieced.bytes == whole.bytes)
  }

  @Test("a command in a chain without an indirect table is executed") func directChains() throws {
    let rig = try Rig()
    let head = rig.control.send(Request.create(3), pieces: 20, answer: 24, answerPieces: 20, indirect: false)
    rig.device.kicked(0)
    let answer = try #require(rig.answer())
    #expect(answer.head == head && answer.type == ResponseType.ok)
    #expect(rig.device.resources.values.map(\.id.rawValue) == [3])
  }

  @Test("nothing is written behind the end of an answer") func nothingIsWrittenBehindTheAnswer() throws {
    let rig = try Rig()
    let (command, room) = (rig.ram.allocate(64), rig.ram.allocate(512))
    rig.ram.write(Request.displayInfo(), at: command)
    rig.ram.write([UInt8](repeating: 0xaa, count: 512), at: room)
    rig.control.add(
      readable: [GuestRange(address: GuestAddress(command), length: 24)],
      writable: [GuestRange(address: GuestAddress(room), length: 512)])
    rig.device.kicked(0)
    #expect(rig.control.nextUsed()?.written == 408)
    #expect(rig.ram.read(104, at: room + 408) == [UInt8](repeating: 0xaa, count: 104))
  }

  /// struct virtio_gpu_config, 16 bytes; QEMU 11.1 reads 20.
  @Test("the configuration space has the layout of the spec") func configurationSpace() throws {
    let device = try Rig().device
    let whole: [UInt8] = Request.words([0, 0, 2, 0])
    #expect(device.config(offset: 0, size: 16) == whole)
    #expect(device.config(offset: 0, size: 20) == whole + UInt32(systemPageSize).bytes)
    #expect(device.config(offset: 8, size: 1) == [2])
    #expect(device.config(offset: 0xffff_fff0, size: 3) == [0, 0, 0])
    #expect(device.config(offset: 4, size: 0) == [])
    #expect(try Rig(outputs: []).device.config(offset: 8, size: 4) == [1, 0, 0, 0], "there is always one")
  }

  @Test(
    "images of two formats, from 1x1 to 65535x65535, can be created",
    arguments: [
      (1, 1, 1), (2, 1, 1), (1, 65535, 65535), (2, 65535, 1), (2, 1, 65535), (2, 1920, 1080),
    ] as [(UInt32, UInt32, UInt32)])
  func formatsAndSizes(_ format: UInt32, _ width: UInt32, _ height: UInt32) throws {
    let rig = try Rig()
    try rig.ok(Request.create(0xffff_ffff, format: format, width, height))
    let resource = try #require(rig.device.resources[ResourceID(0xffff_ffff)])
    #expect(resource.image?.format == (format == 1 ? .argb8888 : .xrgb8888))
    #expect(resource.size == UInt64(width) * UInt64(height) * 4)
    #expect(rig.statistics.liveResources == 1)
    try rig.ok(Request.unref(0xffff_ffff))
    #expect(rig.device.resources.isEmpty && rig.statistics.liveResources == 0)
  }

  @Test("cursor commands succeed, and are answered if they leave room") func cursorCommandsAreAccepted()
    throws
  {
    let rig = try Rig(backing: .auto)
    try rig.ok(Request.create(1, 64, 64), Request.attach(1, rig.pages(4)))
    for request in [
      Request.updateCursor(0, 1), Request.updateCursor(1, 0), Request.moveCursor(0), Request.moveCursor(1),
    ] {
      #expect(try rig.askCursor(request).type == ResponseType.ok)
      // The stock driver leaves no room for an answer.
      #expect(try rig.askCursor(request, room: 0).written == 0)
    }
    #expect(rig.errors.isEmpty)
    let fenced = try rig.askCursor(Request.updateCursor(0, 1, fence: 77))
    #expect(fenced.flags == 1 && fenced.fence == 77)
  }
}
