import Fixtures
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import VhostUser

/// A connection and the front end at its other end.
final class DisplayLink {
  let loop: EventLoop
  let frontEnd: QEMUDisplayFrontEnd
  var connection: QEMUDisplayConnection?
  var timesReady = 0
  var ends: [QEMUDisplayError?] = []

  init() throws {
    let loop = try EventLoop()
    self.loop = loop
    var socket: UnixSocket?
    frontEnd = try QEMUDisplayFrontEnd { socket = consume $0 }
    guard let socket = socket.take() else { preconditionFailure("a pair was made") }
    connection = try QEMUDisplayConnection(
      socket, loop: loop, onReady: { [unowned self] in timesReady += 1 },
      onEnd: { [unowned self] in ends.append($0) })
  }

  func settle() throws { while try loop.turn(waiting: .zero) > 0 {} }
}

struct SentCase: CustomTestStringConvertible, @unchecked Sendable {
  let testDescription: String
  let message: QEMUDisplayMessage
  let payload: [UInt8]

  init(_ message: QEMUDisplayMessage, _ payload: [UInt8]) {
    (testDescription, self.message, self.payload) = ("\(message.request)", message, payload)
  }
}

@Suite struct DisplayConnectionTests {
  static let buffer = QEMUDisplayBuffer(
    area: QEMUDisplayArea(x: 1, y: 2, width: 640, height: 480), width: 1024, height: 768, stride: 4096,
    fourcc: 0x3432_5258)
  static let image = (0..<64 * 64 * 4).map { UInt8(truncatingIfNeeded: $0 &* 7) }

  static let sent = [
    SentCase(.setProtocolFeatures([.edid, .dmabuf2]), numbers(3, 0)),
    SentCase(.cursorPosition(QEMUDisplayCursorPlace(scanout: 1, x: -2, y: 3)), numbers(1, UInt32.max - 1, 3)),
    SentCase(.cursorHide(QEMUDisplayCursorPlace(scanout: 2, x: 5, y: 6)), numbers(2, 5, 6)),
    SentCase(
      .cursorUpdate(QEMUDisplayCursorPlace(scanout: 0, x: 4, y: 5), hotX: 6, hotY: 7, image: image),
      numbers(0, 4, 5, 6, 7) + image),
    SentCase(.scanout(3, width: 800, height: 600), numbers(3, 800, 600)),
    SentCase(.dmabufScanout(4, nil), numbers(4, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
  ]

  @Test("each message is sent in the form of the protocol", arguments: sent) func sends(_ item: SentCase)
    throws
  {
    let link = try DisplayLink()
    #expect(try #require(link.connection).send(item.message))
    #expect(try link.frontEnd.all() == [.init(item.message.request.rawValue, item.payload)])
  }

  static let withDescriptor = [
    SentCase(.dmabufScanout(5, buffer), numbers(5, 1, 2, 640, 480, 1024, 768, 4096, 0, 0x3432_5258)),
    SentCase(
      .dmabufScanout2(6, buffer, modifier: 0x0102_0304_0506_0708),
      numbers(6, 1, 2, 640, 480, 1024, 768, 4096, 0, 0x3432_5258, 0x0506_0708, 0x0102_0304)),
  ]

  @Test("a descriptor goes with its message", arguments: withDescriptor) func sendsADescriptor(
    _ item: SentCase
  ) throws {
    let link = try DisplayLink()
    let memfd = try Memfd.create(name: "pixels", size: systemPageSize)
    let inode = try memfd.withDescriptor { fd throws(Errno) in
      #expect(link.connection?.send(item.message, passing: fd) == true)
      return try fd.status().inode
    }
    let expected = QEMUDisplayFrontEnd.Received(item.message.request.rawValue, item.payload, inode: inode)
    #expect(try link.frontEnd.all() == [expected])
  }

  /// The protocol's numbers are those of QEMU's list, in its order.
  @Test("the requests have QEMU's numbers") func numbersTheRequests() {
    #expect(QEMUDisplayRequest.allCases.map(\.rawValue) == Array(1...12))
    let sizes = QEMUDisplayRequest.allCases.map(\.replySize)
    #expect(sizes == [8, nil, 408, nil, nil, nil, nil, nil, nil, 0, 1056, nil])
  }

  @Test("an update sends the rows of its area, and nothing beside them") func sendsRowsOfPixels() throws {
    let link = try DisplayLink()
    let memfd = try Memfd.create(name: "pixels", size: systemPageSize)
    let mapping = try memfd.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: Int(systemPageSize), writable: true)
    }
    for index: UInt32 in 0..<64 { mapping.store(index, at: Int(index) * 4) }
    // A part of 2x3 pixels of an image that has rows of 8.
    let pixels = QEMUDisplayPixels(mapping, offset: (2 * 8 + 3) * 4, stride: 8 * 4)
    let area = QEMUDisplayArea(x: 3, y: 2, width: 2, height: 3)
    #expect(try #require(link.connection).send(.update(7, area, pixels)))
    let expected = numbers(7, 3, 2, 2, 3, 19, 20, 27, 28, 35, 36)
    #expect(try link.frontEnd.all() == [.init(8, expected)])
  }

  @Test("each question hears its own reply") func asksAndHears() throws {
    let link = try DisplayLink()
    let connection = try #require(link.connection)
    var heard: [QEMUDisplayReply?] = []
    let area = QEMUDisplayArea(x: 1, y: 2, width: 3, height: 4)
    let asked: [QEMUDisplayMessage] = [
      .getProtocolFeatures, .getDisplayInfo, .dmabufUpdate(5, area), .getEDID(6),
    ]
    for message in asked { #expect(connection.ask(message) { heard.append($0) }) }
    #expect(
      try link.frontEnd.all() == [
        .init(1), .init(3), .init(10, numbers(5, 1, 2, 3, 4)), .init(11, numbers(6)),
      ])
    try link.settle()
    #expect(heard == [])

    try link.frontEnd.reply(1, numbers(1, 0))
    try link.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([(1280, 800), (640, 480)]))
    try link.frontEnd.reply(10)
    try link.frontEnd.reply(11, QEMUDisplayFrontEnd.edid([0, 0xff, 3]))
    try link.settle()
    func screen(_ width: UInt32, _ height: UInt32) -> QEMUDisplayScreen {
      QEMUDisplayScreen(area: QEMUDisplayArea(x: 0, y: 0, width: width, height: height), isEnabled: width > 0)
    }
    let screens = [screen(1280, 800), screen(640, 480)] + Array(repeating: screen(0, 0), count: 14)
    #expect(heard == [.protocolFeatures(.edid), .displayInfo(screens), .updated, .edid([0, 0xff, 3])])
    #expect(link.ends.isEmpty && connection.isOpen)
  }

  /// A reply may come in pieces.
  @Test("a reply that comes in pieces is put together") func putsRepliesTogether() throws {
    let link = try DisplayLink()
    var heard: [QEMUDisplayReply?] = []
    for _ in 0..<2 { #expect(try #require(link.connection).ask(.getProtocolFeatures) { heard.append($0) }) }
    let bytes = numbers(1, 4, 8, 2, 0)
    for byte in bytes + bytes {
      try link.frontEnd.send([byte])
      try link.settle()
    }
    #expect(heard == [.protocolFeatures(.dmabuf2), .protocolFeatures(.dmabuf2)])
  }

  /// QEMU leaves some without a reply: what was asked later says so.
  @Test("a question that QEMU leaves without a reply ends with the next reply") func hearsThatThereIsNoReply()
    throws
  {
    let link = try DisplayLink()
    let connection = try #require(link.connection)
    var heard: [String] = []
    let area = QEMUDisplayArea(x: 0, y: 0, width: 1, height: 1)
    #expect(connection.ask(.dmabufUpdate(0, area)) { heard.append("update \($0.map { "\($0)" } ?? "none")") })
    #expect(connection.ask(.getEDID(9)) { heard.append("edid \($0.map { "\($0)" } ?? "none")") })
    #expect(connection.ask(.getProtocolFeatures) { _ in heard.append("barrier") })
    #expect(connection.ask(.dmabufUpdate(0, area)) { heard.append("second \($0.map { "\($0)" } ?? "none")") })
    try link.frontEnd.reply(1, numbers(0, 0))
    try link.settle()
    #expect(heard == ["update none", "edid none", "barrier"])
    try link.frontEnd.reply(10)
    try link.settle()
    #expect(heard.last == "second updated")
  }

  static let wrong: [(String, [UInt8], QEMUDisplayError)] = [
    ("a reply to nothing", numbers(1, 4, 8, 0, 0), .unasked(.getProtocolFeatures)),
    ("a request", numbers(3, 0, 408), .noReply(.getDisplayInfo, flags: 0)),
    ("an unknown code", numbers(99, 4, 0), .unknownReply(code: 99)),
    ("a code without a reply", numbers(7, 4, 0), .unknownReply(code: 7)),
    ("another size", numbers(3, 4, 400), .size(.getDisplayInfo, size: 400, expected: 408)),
    ("a huge size", numbers(3, 4, UInt32.max), .size(.getDisplayInfo, size: UInt32.max, expected: 408)),
    (
      "another type", numbers(3, 4, 408, 0x1200) + [UInt8](repeating: 0, count: 404),
      .type(.getDisplayInfo, type: 0x1200, expected: 0x1101)
    ),
    (
      "an EDID that is too long",
      numbers(11, 4, 1056, 0x1104, 0, 0, 0, 0, 0, 1025, 0) + [UInt8](repeating: 0, count: 1024),
      .edidSize(1025)
    ),
    (
      "a reply before its turn", numbers(11, 4, 1056) + QEMUDisplayFrontEnd.edid([]),
      .outOfTurn(.getEDID, before: .getDisplayInfo)
    ),
  ]

  @Test("a wrong reply ends the connection with a reason", arguments: wrong.indices) func endsWithAReason(
    _ index: Int
  ) throws {
    let (_, bytes, error) = Self.wrong[index]
    let link = try DisplayLink()
    let connection = try #require(link.connection)
    var heard = 0
    #expect(connection.ask(.getDisplayInfo) { _ in heard += 1 })
    if case .edidSize = error {
      try link.frontEnd.reply(3, QEMUDisplayFrontEnd.displayInfo([]))
      try link.settle()
      heard = 0
    }
    #expect(connection.ask(.getEDID(0)) { _ in heard += 1 })
    try link.frontEnd.send(bytes)
    try link.settle()
    #expect(link.ends == [error])
    #expect(!"\(error)".isEmpty && heard == 0 && !connection.isOpen)
    #expect(!connection.send(.scanout(0, width: 1, height: 1)))
    #expect(!connection.ask(.getProtocolFeatures) { _ in })
  }

  @Test("a hangup ends the connection, with an error if a reply has begun", arguments: [0, 1, 12, 13])
  func endsWithItsPeer(_ count: Int)
    throws
  {
    let link = try DisplayLink()
    #expect(try #require(link.connection).ask(.getProtocolFeatures) { _ in })
    _ = try link.frontEnd.all()
    try link.frontEnd.send(Array(numbers(1, 4, 8, 0, 0).prefix(count)))
    link.frontEnd.hangUp()
    try link.settle()
    #expect(link.ends == [count == 0 ? nil : .closed])
  }

  /// QEMU stops without having read all.
  @Test("the connection ends in order with a peer that left bytes unread")
  func endsWithAPeerThatLeftSomethingUnread() throws {
    let link = try DisplayLink()
    #expect(try #require(link.connection).send(.scanout(0, width: 1, height: 1)))
    link.frontEnd.hangUp()
    // Told from the loop, not from within the call.
    #expect(try #require(link.connection).send(.scanout(0, width: 1, height: 1)) == false)
    #expect(link.ends.isEmpty)
    try link.settle()
    #expect(link.ends == [nil])
  }

  @Test("the socket closes with its owner") func closesWithItsOwner() throws {
    let link = try DisplayLink()
    link.connection = nil
    try waitUntil("its end") { try link.frontEnd.isOver }
    #expect(try link.loop.turn(waiting: .zero) == 0)
    #expect(link.ends.isEmpty)
  }

  /// What QEMU does not read is bounded, and no message is left in the middle.
  @Test("a message that has begun is finished, and what waits is bounded") func finishesWhatHasBegun() throws
  {
    let link = try DisplayLink()
    let connection = try #require(link.connection)
    let place = QEMUDisplayCursorPlace(scanout: 0, x: 1, y: 2)
    func image(_ number: Int) -> [UInt8] { [UInt8](repeating: UInt8(number & 0xff), count: 64 * 64 * 4) }
    var taken = 0
    while connection.send(.cursorUpdate(place, hotX: 0, hotY: 0, image: image(taken))) {
      taken += 1
      #expect(taken < 1000)
    }
    #expect(!connection.send(.scanout(0, width: 1, height: 1)), "another one is not taken before")
    try link.settle()
    #expect(link.timesReady == 0)

    var read: [QEMUDisplayFrontEnd.Received] = []
    for _ in 0..<1000 where link.timesReady == 0 || read.count < taken {
      read += try link.frontEnd.all()
      try link.settle()
    }
    #expect(read.map(\.payload.last) == (0..<taken).map { UInt8($0 & 0xff) })
    #expect(link.timesReady == 1)
    #expect(connection.send(.scanout(1, width: 2, height: 3)))
    #expect(try link.frontEnd.all() == [.init(7, numbers(1, 2, 3))])
  }

  @Test("a connection takes no more questions than it remembers, until a reply comes")
  func asksNoMoreThanIsRemembered() throws {
    let link = try DisplayLink()
    let connection = try #require(link.connection)
    for _ in 0..<QEMUDisplayConnection.maxOutstanding {
      #expect(connection.ask(.getProtocolFeatures) { _ in })
    }
    #expect(!connection.ask(.getProtocolFeatures) { _ in })
    try link.settle()
    #expect(link.timesReady == 0)
    try link.frontEnd.reply(1, numbers(0, 0))
    try link.settle()
    #expect(link.timesReady == 1)
    #expect(connection.ask(.getProtocolFeatures) { _ in })
  }

  @Test("descriptors that come with a reply are closed") func takesNoDescriptors() throws {
    let link = try DisplayLink()
    let connection = try #require(link.connection)
    for _ in 0..<2 { #expect(connection.ask(.getProtocolFeatures) { _ in }) }
    let passed = try Memfd.create(name: "takes-no-descriptors", size: 4096)
    let number = passed.withDescriptor { $0.withRaw { $0 } }
    for count in [1, 12] {
      try link.frontEnd.send(numbers(1, 4, 8, 0, 0), descriptors: [CInt](repeating: number, count: count))
      try link.settle()
    }
    let open = directoryEntries("/proc/self/fd").filter {
      linkTarget(FilePath("/proc/self/fd/\($0)"))?.contains("takes-no-descriptors") ?? false
    }
    #expect(open == ["\(number)"], "what came is closed")
    #expect(connection.isOpen)
  }

  @Test("a descriptor that cannot be watched is refused") func refusesWhatCannotBeWatched() throws {
    let loop = try EventLoop()
    let file = try Memfd.create(name: "no socket", size: 1)
    #expect(throws: Errno.notPermitted) {
      let fd = try file.withDescriptor { fd throws(Errno) in try fd.duplicate() }
      _ = try QEMUDisplayConnection(UnixSocket(adopting: fd), loop: loop, onReady: {}, onEnd: { _ in })
    }
  }
}
