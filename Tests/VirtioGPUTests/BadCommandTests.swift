import Buffers
import Fixtures
import Guest
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// A command that must be refused: with which error, and under what name it is counted.
struct BadCommand: CustomTestStringConvertible {
  let testDescription: String
  let request: [UInt8]
  let error: UInt32
  let kind: String
  var isForCursor = false

  init(_ name: String, _ request: [UInt8], _ error: UInt32, _ kind: String) {
    (testDescription, self.request, self.error, self.kind) = (name, request, error, kind)
  }

  func onCursorQueue() -> BadCommand {
    var copy = self
    copy.isForCursor = true
    return copy
  }

  /// Sends it, and expects that nothing happens but the refusal, and that the device goes on.
  func check(_ rig: Rig) throws {
    let (state, before, lines) = (rig.state, rig.errors, rig.log.warnings.count)
    let answer = try isForCursor ? rig.askCursor(request) : rig.ask(request)
    #expect(answer.type == error, "\(hex(answer.type)) instead of \(hex(error))")
    #expect(answer.written == 24)
    #expect(rig.state == state)
    var expected = before
    expected[kind, default: 0] += 1
    #expect(rig.errors == expected)
    if before[kind] == nil {
      #expect(rig.log.warnings.count == lines + 1, "the first mistake of a kind is logged at once")
    }
    #expect(try rig.ask(Request.displayInfo()).type == ResponseType.displayInfo)
    #expect(try rig.askCursor(Request.moveCursor(0)).type == ResponseType.ok)
    #expect(rig.errors == expected && rig.state == state)
  }
}

/// Rectangles that are not inside 64x48 pixels. Sums wrap around 32 bits in some.
private let outside: [(String, Rectangle)] = [
  ("one column too wide", Rectangle(0, 0, 65, 48)), ("one row too high", Rectangle(0, 0, 64, 49)),
  ("one column to the right", Rectangle(1, 0, 64, 48)), ("one row down", Rectangle(0, 1, 64, 48)),
  ("behind the right edge", Rectangle(64, 0, 1, 1)), ("below the lower edge", Rectangle(0, 48, 1, 1)),
  ("x + width wraps to 1", Rectangle(0xffff_ffff, 0, 2, 1)),
  ("y + height wraps to 1", Rectangle(0, 0xffff_ffff, 1, 2)),
  ("x + width wraps to 0", Rectangle(1, 0, 0xffff_ffff, 1)),
  ("y + height wraps to 0", Rectangle(0, 1, 1, 0xffff_ffff)),
  ("both are the largest", Rectangle(0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff)),
  ("0x80000000 twice", Rectangle(0x8000_0000, 0, 0x8000_0000, 1)),
  ("the image's 4 GiB of bytes", Rectangle(0, 0, 0x4000_0000, 1)),
  ("nothing, but outside", Rectangle(65, 0, 0, 0)), ("nothing, but below", Rectangle(0, 49, 0, 0)),
]

@Suite struct BadCommandTests {
  private static let whole = Rectangle(0, 0, 64, 48)

  /// Resources 1 and 7 exist, without backing; scanouts 0 and 1.
  private static func rig() throws -> Rig {
    let rig = try Rig()
    try rig.ok(Request.create(1), Request.create(7, format: 1, 1, 1))
    return rig
  }

  static let resources: [BadCommand] =
    ([0, 2, 0x8000_0000, 0xffff_ffff] as [UInt32]).flatMap { id -> [BadCommand] in
      let (error, kind) = (ResponseType.invalidResource, "invalidResource")
      var cases = [
        BadCommand("unref", Request.unref(id), error, kind),
        BadCommand("flush", Request.flush(id), error, kind),
        BadCommand("transfer", Request.transfer(id), error, kind),
        BadCommand("attach", Request.attach(id, [(0x1000, 0x1000)]), error, kind),
        BadCommand("attach with a count that is no truth", Request.attach(id, [], count: .max), error, kind),
        BadCommand("detach", Request.detach(id), error, kind),
        BadCommand("assign UUID", Request.assignUUID(id), error, kind),
      ]
      if id != 0 {
        cases.append(BadCommand("set scanout", Request.setScanout(0, id), error, kind))
        cases.append(BadCommand("cursor", Request.updateCursor(0, id), error, kind).onCursorQueue())
      }
      return cases
    } + [
      BadCommand("create 0", Request.create(0), ResponseType.invalidResource, "invalidResource"),
      BadCommand("create 1 again", Request.create(1), ResponseType.invalidResource, "invalidResource"),
      BadCommand(
        "create 7 again, of another shape", Request.create(7, format: 1, 9, 9), ResponseType.invalidResource,
        "invalidResource"),
    ]

  @Test("a command with a wrong resource number is refused with the spec's error", arguments: resources)
  func resourceIDs(
    _ command: BadCommand
  ) throws { try command.check(Self.rig()) }

  static let scanouts: [BadCommand] =
    ([2, 15, 16, 0x8000_0000, 0xffff_ffff] as [UInt32]).flatMap { scanout -> [BadCommand] in
      let (error, kind) = (ResponseType.invalidScanout, "invalidScanout")
      return [
        BadCommand("set scanout \(scanout)", Request.setScanout(scanout, 1), error, kind),
        BadCommand("turn off \(scanout)", Request.setScanout(scanout, 0), error, kind),
        BadCommand("cursor on \(scanout)", Request.updateCursor(scanout, 1), error, kind).onCursorQueue(),
        BadCommand("no cursor on \(scanout)", Request.updateCursor(scanout, 0), error, kind).onCursorQueue(),
        BadCommand("move on \(scanout)", Request.moveCursor(scanout), error, kind).onCursorQueue(),
      ]
    }
    + ([16, 17, 0xffff_ffff] as [UInt32]).map {
      BadCommand("EDID of \($0)", Request.edid($0), ResponseType.invalidScanout, "invalidScanout")
    }

  @Test("a command with a wrong scanout number is refused with the spec's error", arguments: scanouts)
  func scanoutNumbers(
    _ command: BadCommand
  ) throws {
    try command.check(Self.rig())
  }

  /// What is none of `enum virtio_gpu_formats`.
  static let formats = ([0, 5, 66, 69, 120, 122, 133, 135, 0x8000_0001, 0xffff_ffff] as [UInt32]).map {
    BadCommand("format \($0)", Request.create(9, format: $0), ResponseType.invalidParameter, "format")
  }

  @Test("a resource of an unknown format is refused with the spec's error", arguments: formats)
  func formatNumbers(
    _ command: BadCommand
  ) throws { try command.check(Self.rig()) }

  /// 0x40000000 x 4 bytes and 0x10000 x 0x10000 pixels are 0 in 32 bits.
  static let sizes: [BadCommand] = {
    let sizes: [(UInt32, UInt32)] = [
      (0, 1), (1, 0), (0, 0), (65536, 1), (1, 65536), (65536, 65536), (0x4000_0000, 1), (0x4000_0001, 1),
      (0xffff_ffff, 1), (1, 0xffff_ffff), (0xffff_ffff, 0xffff_ffff),
    ]
    return sizes.map {
      BadCommand("\($0)x\($1)", Request.create(9, $0, $1), ResponseType.invalidParameter, "size")
    }
  }()

  @Test("a resource of an impossible size is refused with the spec's error", arguments: sizes)
  func imageSizes(_ command: BadCommand)
    throws
  { try command.check(Self.rig()) }

  static let rectangles = outside.flatMap { name, area -> [BadCommand] in
    [
      BadCommand(
        "set scanout, \(name)", Request.setScanout(0, 1, area), ResponseType.invalidParameter, "rectangle"),
      BadCommand("flush, \(name)", Request.flush(1, area), ResponseType.invalidParameter, "rectangle"),
      BadCommand("transfer, \(name)", Request.transfer(1, area), ResponseType.invalidParameter, "rectangle"),
    ]
  }
  static let empty = [Rectangle(0, 0, 0, 0), Rectangle(0, 0, 64, 0), Rectangle(64, 48, 0, 0)].map {
    BadCommand(
      "set scanout to \($0)", Request.setScanout(0, 1, $0), ResponseType.invalidParameter, "rectangle")
  }

  @Test(
    "a rectangle that is empty or outside its resource is refused with the spec's error",
    arguments: rectangles + empty)
  func rectangle(_ command: BadCommand) throws {
    try command.check(Self.rig())
  }

  static let withoutBacking = [
    BadCommand("transfer", Request.transfer(1), ResponseType.unspecified, "noBacking"),
    BadCommand(
      "transfer of nothing", Request.transfer(1, Rectangle(0, 0, 0, 0)), ResponseType.unspecified, "noBacking"
    ),
    BadCommand("detach", Request.detach(1), ResponseType.unspecified, "noBacking"),
  ]

  @Test("a transfer or detach of a resource without backing is refused", arguments: withoutBacking)
  func noBacking(
    _ command: BadCommand
  ) throws {
    try command.check(Self.rig())
  }

  /// Resource 1 takes 12288 bytes. The RAM is as `GuestRAM.likeQEMU` lays it out: 0 to 0xa0000, 0xc0000 to
  /// 8 MiB, 4 GiB to 4 GiB + 8 MiB.
  static let lists: [BadCommand] = {
    let invalid = ResponseType.invalidParameter
    let top: UInt64 = 0xffff_ffff_ffff_f000
    func list(_ name: String, _ kind: String, _ entries: (UInt64, UInt32)...) -> BadCommand {
      BadCommand(name, Request.attach(1, entries.map { (address: $0.0, length: $0.1) }), invalid, kind)
    }
    return [
      BadCommand("no entries", Request.attach(1, []), invalid, "emptyList"),
      BadCommand(
        "no entries, though some are there", Request.attach(1, [(0x1000, 0x3000)], count: 0), invalid,
        "emptyList"),
      BadCommand(
        "one more than there are", Request.attach(1, [(0x1000, 0x3000)], count: 2), invalid,
        "malformedCommand"
      ),
      BadCommand(
        "as many as the quota allows, but not there", Request.attach(1, [], count: 16384), invalid,
        "malformedCommand"),
      list("one page short", "shortBacking", (0x1000, 0x2000)),
      list("one byte short", "shortBacking", (0x1000, 0x2fff)),
      list("in the hole below 1 MiB", "memory", (0xa0000, 0x3000)),
      list("into that hole", "memory", (0x9f000, 0x3000)),
      list("behind the low RAM", "memory", (8 << 20, 0x3000)),
      list("behind all RAM", "memory", (0x1_0080_0000, 0x3000)),
      list("the last page behind all RAM", "memory", (0x1000, 0x2000), (0x1_007f_f000, 0x2000)),
      list("the second entry in a hole", "memory", (0x1000, 0x1000), (0xb0000, 0x2000)),
      list("an entry in a hole that the image does not need", "memory", (0x1000, 0x3000), (0xb0000, 0x1000)),
      list("an empty entry", "memory", (0x1000, 0x3000), (0x5000, 0)),
      list("only an empty entry", "memory", (0x1000, 0)),
      list("up to the end of 64 bits", "memory", (top, 0x1000)),
      list("beyond 64 bits", "memory", (top, 0x3000)),
      list("wrapping to good memory", "memory", (0xffff_ffff_ffff_ffff, 0x4000)),
      list("the largest entry", "memory", (0x1000, 0xffff_ffff)),
      list("two that add up beyond 32 bits", "memory", (0x1000, 0xffff_f000), (0x1000, 0xffff_f000)),
    ]
  }()

  @Test("a wrong page list gets the spec's error", arguments: lists) func pageList(_ command: BadCommand)
    throws
  { try command.check(Self.rig()) }

  static let tooMany: [BadCommand] = {
    let counts: [UInt32] = [16385, 1_000_000, 0x1000_0000, 0x1000_0001, 0xffff_ffff]
    return counts.map {
      BadCommand(
        "\($0) entries", Request.attach(1, [(0x1000, 0x3000)], count: $0), ResponseType.outOfMemory, "quota")
    }
  }()

  @Test(
    "a list with more entries than the quota is refused, and the log says what to raise", arguments: tooMany)
  func tooManyEntries(
    _ command: BadCommand
  ) throws {
    let rig = try Self.rig()
    try command.check(rig)
    #expect(rig.log.warnings[0].contains("; raise entries"))
  }

  /// A million entries whose memory is not there: who looked at them would call the command malformed.
  @Test("a list with too many entries is not read") func tooManyEntriesAreNotRead() throws {
    let rig = try Self.rig()
    let (command, room) = (rig.ram.allocate(64), rig.ram.allocate(64))
    rig.ram.write(Request.attach(1, [], count: 1_000_000), at: command)
    rig.control.add(
      readable: [
        GuestRange(address: GuestAddress(command), length: 32),
        GuestRange(address: GuestAddress(0x2_0000_0000), length: 16_000_000),
      ], writable: [GuestRange(address: GuestAddress(room), length: 24)])
    rig.device.kicked(0)
    #expect(rig.control.nextUsed()?.written == 24)
    #expect(rig.ram.number(UInt32.self, at: room) == ResponseType.outOfMemory)
    #expect(rig.errors == ["quota": 1])
  }

  /// GET_CAPSET_INFO and GET_CAPSET, what follows SET_SCANOUT_BLOB, the 3D commands, what is a response, what is nothing.
  static let unknown: [BadCommand] = {
    var types: [UInt32] = [0, 1, 0xff, 0x108, 0x109, 0x10e]
    types += 0x200...0x20a
    types += [0x302, 0x1100, 0x1205, 0x0100_0000, 0xffff_ffff]
    return types.flatMap { type -> [BadCommand] in
      let body = [UInt8](repeating: 0xff, count: 104)
      let (error, kind) = (ResponseType.unspecified, "unknownCommand")
      let command = BadCommand(hex(type), Request.header(type) + body, error, kind)
      let short = BadCommand("\(hex(type)) without a body", Request.header(type), error, kind)
      // What is of another profile is read nevertheless, and too short then.
      return [command, command.onCursorQueue()] + (Request.controlTypes.contains(type) ? [] : [short])
    }
  }()

  @Test("an unknown command is refused", arguments: unknown) func unknownCommand(_ command: BadCommand)
    throws
  {
    try command.check(Self.rig())
  }

  static let misplaced: [BadCommand] = {
    let all: [(String, [UInt8])] = [
      ("GET_DISPLAY_INFO", Request.displayInfo()), ("GET_EDID", Request.edid(0)),
      ("RESOURCE_CREATE_2D", Request.create(9)), ("RESOURCE_UNREF", Request.unref(1)),
      ("SET_SCANOUT", Request.setScanout(0, 0)), ("RESOURCE_FLUSH", Request.flush(1)),
      ("TRANSFER_TO_HOST_2D", Request.transfer(1)),
      ("RESOURCE_ATTACH_BACKING", Request.attach(1, [(0x1000, 0x3000)])),
      ("RESOURCE_DETACH_BACKING", Request.detach(1)), ("RESOURCE_ASSIGN_UUID", Request.assignUUID(1)),
    ]
    return all.map {
      BadCommand($0, $1, ResponseType.unspecified, "unknownCommand").onCursorQueue()
    } + [
      BadCommand("UPDATE_CURSOR", Request.updateCursor(0, 1), ResponseType.unspecified, "unknownCommand"),
      BadCommand("MOVE_CURSOR", Request.moveCursor(0), ResponseType.unspecified, "unknownCommand"),
    ]
  }()

  @Test("a command on the wrong queue is refused", arguments: misplaced) func wrongQueue(
    _ command: BadCommand
  ) throws { try command.check(Self.rig()) }

  // MARK: Truncation

  static let wholeCommands: [(String, [UInt8], Bool)] = [
    ("GET_DISPLAY_INFO", Request.displayInfo(), false), ("GET_EDID", Request.edid(0), false),
    ("RESOURCE_CREATE_2D", Request.create(9), false), ("RESOURCE_UNREF", Request.unref(1), false),
    ("SET_SCANOUT", Request.setScanout(0, 1), false), ("RESOURCE_FLUSH", Request.flush(1), false),
    ("TRANSFER_TO_HOST_2D", Request.transfer(1), false),
    (
      "RESOURCE_ATTACH_BACKING",
      Request.attach(1, [(0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x1000)]), false
    ),
    ("RESOURCE_DETACH_BACKING", Request.detach(1), false),
    ("RESOURCE_ASSIGN_UUID", Request.assignUUID(1), false),
    ("UPDATE_CURSOR", Request.updateCursor(0, 1), true), ("MOVE_CURSOR", Request.moveCursor(0), true),
  ]

  @Test("a command that is cut off at any byte is refused", arguments: wholeCommands) func truncated(
    _ name: String, _ whole: [UInt8], _ isForCursor: Bool
  ) throws {
    let rig = try Self.rig()
    for length in whole.indices {
      var command = BadCommand(
        "\(length) bytes", Array(whole[..<length]), ResponseType.invalidParameter, "malformedCommand")
      command.isForCursor = isForCursor
      try command.check(rig)
    }
  }

  /// A header that is whole comes back in the answer, so that a fence is not lost.
  @Test("the answer to a command that is cut off has its fence") func truncatedCommandKeepsItsFence() throws {
    let rig = try Self.rig()
    let answer = try rig.ask(Array(Request.unref(1, fence: 9).prefix(25)))
    #expect(answer.type == ResponseType.invalidParameter && answer.flags == 1 && answer.fence == 9)
  }

  /// What follows a command is not looked at.
  @Test("bytes behind a command are ignored") func moreThanTheCommand() throws {
    let rig = try Self.rig()
    try rig.ok(Request.create(9) + [UInt8](repeating: 0xff, count: 3000), Request.unref(9) + [1])
    #expect(rig.errors.isEmpty)
  }

  // MARK: The log

  /// One line a second for each kind, however often it happens; the next line tells how many were left out.
  @Test("the log has one line a second for each kind of mistake, with the number left out")
  func logIsNotFlooded()
    throws
  {
    let rig = try Self.rig()
    rig.device.mistakes.interval = .seconds(1)
    let start = Instant.now
    func lines(_ words: String) -> [String] { rig.log.warnings.filter { $0.contains(words) } }
    for _ in 0..<300 {
      _ = try rig.ask(Request.unref(99))
      _ = try rig.ask(Request.create(9, format: 5))
    }
    let seconds = Int((Instant.now - start).nanoseconds / 1_000_000_000)
    #expect((1...seconds + 1).contains(lines("no resource 99").count))
    #expect((1...seconds + 1).contains(lines("format 5").count))
    #expect(rig.errors == ["invalidResource": 300, "format": 300])
    #expect(lines("no resource 99")[0].contains("more like it") == false)
    // The next line comes when a second is over.
    let before = lines("no resource 99").count
    var sent = 300
    while lines("no resource 99").count == before {
      _ = try rig.ask(Request.unref(99))
      sent += 1
      try #require(sent < 10_000_000)
    }
    let logged = lines("no resource 99")
    let leftOut = logged.compactMap { line -> Int? in
      guard let words = line.split(separator: "(and ").dropFirst().first else { return nil }
      return words.split(separator: " ").first.flatMap { Int($0) }
    }
    #expect(leftOut.reduce(0, +) + logged.count == sent, "\(logged)")
  }

  /// Each line says what was wrong: the value, and what it should have been.
  @Test(
    "the log line of a mistake names the value and the limit",
    arguments: [
      (Request.unref(99), ["resource 99"]), (Request.create(9, format: 66), ["66", "67"]),
      (Request.create(9, 65536, 2), ["65536x2", "65535"]), (Request.setScanout(5, 1), ["scanout 5", "2"]),
      (Request.flush(1, Rectangle(60, 0, 5, 1)), ["RESOURCE_FLUSH", "5x1+60+0", "64x48"]),
      (Request.attach(1, [(0x1000, 0x2000)]), ["8192", "12288"]),
      (Request.attach(1, [(0x1000, 0x3000)]), ["/dev/udmabuf", "CONFIG_UDMABUF"]),
      (Request.attach(1, [(0x1000, 0x2000), (0xb0000, 0x1000)]), ["entry 1", "0xb0000"]),
      (Request.attach(1, [], count: 20000), ["20000", "16384", "; raise entries"]),
      (Request.header(0x206), ["0x206"]),
    ] as [([UInt8], [String])])
  func logLine(_ request: [UInt8], _ words: [String]) throws {
    let rig = try Self.rig()
    _ = try rig.ask(request)
    try #require(rig.log.warnings.count == 1)
    for word in words { #expect(rig.log.warnings[0].contains(word), "\(rig.log.warnings[0])") }
  }

  // MARK: Without the device

  @Test(
    "without udmabuf a list that must be lent is refused, and the log has the remedy",
    arguments: [
      (.noSuchFileOrDirectory, ["/dev/udmabuf", "CONFIG_UDMABUF"]),
      (.permissionDenied, ["/dev/udmabuf", "group", "kvm"]), (.notPermitted, ["/dev/udmabuf", "cgroup"]),
    ] as [(Errno, [String])])
  func withoutUdmabuf(_ errno: Errno, _ words: [String]) throws {
    let rig = try Rig(.missing(errno))
    try rig.ok(Request.create(1))
    let state = rig.state
    #expect(try rig.ask(Request.attach(1, rig.pages(3))).type == ResponseType.outOfMemory)
    #expect(rig.errors == ["noDevice": 1] && rig.state == state)
    for word in words { #expect(rig.log.warnings[0].contains(word)) }
    try rig.ok(Request.unref(1))
  }
}

/// Bad commands about memory that is lent, and the whole table above with buffers alive.
@Suite(.testHost, .serialized) struct BadCommandLendTests {
  /// Resource 1 has no backing; 2 has one; 3 is on the screen.
  private static func rig() throws -> Rig {
    let rig = try Rig(.real)
    try rig.ok(Request.create(1), Request.create(7, format: 1, 1, 1))
    try rig.lend(2)
    try rig.lend(3)
    try rig.ok(Request.setScanout(0, 3), Request.flush(3))
    rig.screen.flip()
    return rig
  }

  static let lent: [BadCommand] = {
    let invalid = ResponseType.invalidParameter
    var all = outside.flatMap { name, area -> [BadCommand] in
      [
        BadCommand("set scanout, \(name)", Request.setScanout(1, 2, area), invalid, "rectangle"),
        BadCommand("flush, \(name)", Request.flush(3, area), invalid, "rectangle"),
        BadCommand("transfer, \(name)", Request.transfer(2, area), invalid, "rectangle"),
      ]
    }
    all += [
      BadCommand(
        "set scanout to nothing", Request.setScanout(0, 2, Rectangle(0, 0, 0, 48)), invalid, "rectangle"),
      BadCommand(
        "attach twice", Request.attach(2, [(0x1000, 0x3000)]), ResponseType.unspecified, "backingTwice"),
      BadCommand(
        "attach twice, with nothing", Request.attach(3, []), ResponseType.unspecified, "backingTwice"),
      BadCommand("create again", Request.create(3), ResponseType.invalidResource, "invalidResource"),
    ]
    // 64x48 pixels: rows of 256 bytes, 12288 bytes in all.
    let transfers: [(Rectangle, UInt64)] = [
      (Rectangle(0, 0, 64, 48), 1), (Rectangle(0, 0, 64, 48), 4), (Rectangle(0, 0, 1, 1), 12285),
      (Rectangle(0, 0, 1, 1), 12288), (Rectangle(0, 0, 1, 1), .max), (Rectangle(0, 0, 64, 1), 12033),
      (Rectangle(0, 47, 64, 1), 12289), (Rectangle(0, 0, 64, 48), 0xffff_ffff_ffff_f000),
      (Rectangle(0, 0, 1, 48), 253),
    ]
    all += transfers.map { area, offset in
      BadCommand(
        "transfer of \(area) from \(offset)", Request.transfer(2, area, offset: offset), invalid, "rectangle")
    }
    let unaligned: [(String, UInt64, UInt32)] = [
      ("address in a page", 0x1010, 0x3000), ("length no pages", 0x1000, 0x2010),
      ("address and length in a page", 0x1ff0, 0x2010),
    ]
    all += unaligned.map { name, address, length in
      let entries = [(address: address, length: length), (0x8000, 0x800), (0x10000, 0x3000)]
      return BadCommand(name, Request.attach(1, entries), invalid, "unalignedEntry")
    }
    return all
  }()

  @Test("each bad command about lent memory is refused with its error", arguments: lent) func aboutLentMemory(
    _ command: BadCommand
  ) throws { try command.check(Self.rig()) }

  @Test("every other bad command is refused while buffers are lent and shown")
  func allOthersWithBuffersAlive() throws {
    let rig = try Self.rig()
    let tables = [
      BadCommandTests.resources, BadCommandTests.scanouts,
      BadCommandTests.formats, BadCommandTests.sizes, BadCommandTests.lists, BadCommandTests.tooMany,
      BadCommandTests.unknown, BadCommandTests.misplaced, BadCommandTests.rectangles,
    ]
    for command in tables.joined() where !command.names([2, 3]) { try command.check(rig) }
    try rig.expectBalance()
  }
}

extension BadCommand {
  /// It is about one of these resources, which exist where this is asked.
  fileprivate func names(_ ids: [UInt32]) -> Bool {
    let offset: [UInt32: Int] = [
      0x102: 24, 0x103: 44, 0x104: 40, 0x105: 48, 0x106: 24, 0x107: 24, 0x10b: 24, 0x300: 40,
    ]
    guard let place = offset[request.value(at: 0)], request.count >= place + 4 else { return false }
    return ids.contains(request.value(at: place))
  }
}
