internal import Buffers
internal import Fixtures
internal import FoundationEssentials
internal import Glibc
internal import Lending
internal import LendingProtocol
internal import Linux
internal import Logging
internal import Port
internal import SystemPackage

// What a guest writes to its port, when it reads and when it goes, while its driver, its devices, importers and time do what
// they like.

func fuzzPort(_ input: inout Input) throws {
  let room = try PortRoom()
  while !input.isEmpty { try room.step(&input) }
  try room.end()
}

/// A port with two devices, and a guest.
private final class PortRoom {
  private static let secret = String(repeating: "01", count: 32)
  private static let session = String(repeating: "ab", count: 16)
  /// N becomes a small number, B the name of a buffer.
  private static let commands = [
    #""hello","arguments":{"version":1,"session":"\#(session)"}"#,
    #""hello","arguments":{"version":N,"session":"\#(session)"}"#,
    #""hello","arguments":{"version":1}"#,
    #""prove","arguments":{"resource":N,"secret":"\#(secret)"}"#,
    #""lend","arguments":{"device":0,"epoch":1,"resource":N,"lender":1,"offset":0,"size":N}"#,
    #""lend","arguments":{"device":0,"epoch":1,"resource":1,"lender":1,"offset":0,"size":4096,"use":"fill"}"#,
    #""lend","arguments":{"device":1,"epoch":N,"resource":1,"lender":N,"offset":N,"size":4096,"to":["a"]}"#,
    #""lend","arguments":{"device":N,"epoch":1,"resource":2,"lender":1,"offset":0,"size":1,"to":["N"]}"#,
    #""setMetadata","arguments":{"buffer":"B","lender":1,"metadata":{"values":{"\u0001":"N"}}}"#,
    #""setMetadata","arguments":{"buffer":"B","lender":N,"metadata":{"image":{"width":N,"height":1,"fourcc":1,"stride":N}}}"#,
    #""return","arguments":{"buffer":"B","lender":1}"#,
    #""return","arguments":{"buffer":"B","lender":1,"delay":N,"patience":N}"#,
    #""endLender","arguments":{"lender":N}"#,
    #""beginAccess","arguments":{"buffer":"B","lender":1,"mode":"read"}"#,
    #""endAccess","arguments":{"buffer":"B","lender":1}"#,
    #""nothing","arguments":{"N":N}"#, #"N"#,
  ]
  private static let importer = LendingCaller(pid: 1, user: 0, groups: [], isTrusted: true)
  private static let limits: PortLimits = {
    var limits = PortLimits()
    (limits.line, limits.linesPerSecond, limits.burst) = (512, 1000, 32)
    return limits
  }()

  private let path = FilePath("/tmp/udmabridge-fuzz-\(getpid())")
  private let loop: EventLoop
  private let registry: Registry
  private let port: LendingPort
  private let devices = [LendingDevice(), LendingDevice()]
  private let clock = Clock()
  private var imports: [Import] = []
  private var guest: GuestEnd?

  private final class Clock { var now = Instant.now }

  init() throws {
    loop = try EventLoop()
    removeFile(path)
    var lending = LendingLimits()
    (lending.buffers, lending.metadata, lending.imports) = (3, 64, 4)
    registry = Registry(
      limits: lending, audiences: ["a": Audience(users: [5])], clock: { [clock] in clock.now })
    port = try LendingPort(
      UnixSocket.listen(path), registry: registry, devices: devices, limits: Self.limits,
      clock: { [clock] in clock.now }, loop: loop,
      logger: Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() })
    for device in devices { try device.make(1, [UInt8](repeating: 1, count: 32)) }
  }

  deinit { removeFile(path) }

  // MARK: What happens

  func step(_ input: inout Input) throws {
    switch input.byte() % 16 {
    case 0: if guest == nil { try connect() } else { try connectAnother() }
    case 1, 2, 3, 4: try say(&input)
    case 5: try write(input.take(Int(input.byte())))
    case 6: try guest?.read(upTo: Int(input.byte()) * 16 + 1)
    case 7: if input.byte() % 4 == 0 { try hangUp() }
    case 8: try makeResource(&input)
    case 9: takePages(of: devices[Int(input.byte() & 1)], UInt32(input.byte() % 4))
    case 10: reset(Int(input.byte() & 1))
    case 11:
      let number = input.byte()
      let device = devices[Int(number & 1)]
      if number & 2 == 0 { device.queueIsFull = true } else { device.takeQueue() }
    case 12, 13: importer(&input)
    case 14:
      clock.now = clock.now + .milliseconds(Int64(input.byte()) * 16)
      registry.expire()
    default: try settle()
    }
    checkBounds()
  }

  private func connect() throws {
    let socket = try UnixSocket.connect(path)
    try socket.fd.setNonblocking()
    guest = GuestEnd(socket, limit: Self.limits.line)
    try settle()
  }

  private func connectAnother() throws {
    let refused = port.statistics.refused
    _ = try UnixSocket.connect(path)
    try settle()
    expect(port.statistics.refused == refused + 1, "a second connection is refused")
  }

  private func hangUp() throws {
    guest = nil
    try settle()
    expect(registry.statistics.buffers == 0, "what was lent is revoked with the connection")
  }

  private func say(_ input: inout Input) throws {
    let (number, id) = (String(input.byte() % 8), input.byte())
    if guest == nil { try connect() }
    guard let guest else { return }
    var command = input.one(of: Self.commands)
    command = command.split(separator: "N", omittingEmptySubsequences: false).joined(separator: number)
    let buffer = guest.lent.isEmpty ? Self.session : guest.lent[Int(id) % guest.lent.count]
    command = command.split(separator: "B", omittingEmptySubsequences: false).joined(separator: buffer)
    let line = #"{"execute":\#(command)"# + (id == 0 ? "}" : #","id":\#(id)}"#)
    try write((id % 32 == 1 ? [0xff] : []) + Array(line.utf8) + (id == 255 ? [] : [0x0a]))
  }

  private func write(_ bytes: [UInt8]) throws {
    if bytes.isEmpty { return }
    if guest == nil { try connect() }
    try guest?.write(bytes)
  }

  private func makeResource(_ input: inout Input) throws {
    let number = input.byte()
    let (device, resource) = (devices[Int(number & 1)], UInt32(number >> 1 & 3))
    if resource == 0 || device.resources[resource] != nil { return }
    switch number >> 3 & 3 {
    case 0: device.resources[resource] = .copied
    case 1: device.resources[resource] = .ofHost
    default: try device.make(resource, [UInt8](repeating: 1, count: 32))
    }
  }

  private func takePages(of device: LendingDevice, _ resource: UInt32) {
    guard case .lendable(let pages) = device.resources.removeValue(forKey: resource) else { return }
    for borrower in pages.buffer.borrowers where borrower.pagesAreWanted(isReset: false) == nil {
      borrower.pagesAreGone()
    }
  }

  private func reset(_ device: Int) {
    devices[device].reset()
    port.deviceWasReset(device)
  }

  private func importer(_ input: inout Input) {
    let number = Int(input.byte())
    imports.removeAll(where: \.isOver)
    if number % 8 < 3 || imports.isEmpty {
      let buffers = registry.list(for: Self.importer)
      if buffers.isEmpty { return }
      let id = buffers[number >> 3 % buffers.count % buffers.count].id
      if let new = try? registry.importBuffer(id, for: Self.importer, forWriting: false) {
        imports.append(new)
      }
      return
    }
    let user = imports[number >> 3 % imports.count % imports.count]
    switch number % 8 {
    case 3: registry.release(user)
    case 4: registry.beginAccess(number & 8 == 0 ? .read : .write, by: user)
    case 5: registry.endAccess(by: user)
    case 6: try? registry.beginFill(by: user)
    default:
      let metadata = BufferMetadata(values: ["\u{1}\"": String(number)])
      try? registry.endFill(
        Fill(bytesUsed: UInt64(number & 3), timestamp: number & 8 == 0 ? nil : -number, metadata: metadata),
        by: user)
    }
  }

  private func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return checkBounds() }
    fail("the loop does not come to rest")
  }

  private func checkBounds() {
    let kept = port.kept
    expect(kept.output <= 64 << 10, "\(kept.output) bytes wait to be sent")
    expect(kept.input < Self.limits.line + 4 << 10, "\(kept.input) bytes of the guest are kept")
  }

  // MARK: How it ends

  func end() throws {
    for device in 0..<2 {
      devices[device].takeQueue()
      reset(device)
    }
    if let guest {
      // A guest that reads gets an answer to each line, as fast as it may speak.
      for _ in 0..<5000 where !guest.isAnswered {
        clock.now = clock.now + .seconds(1)
        try loop.turn(waiting: .milliseconds(2))
        // Words that waited for a lend that was not read yet.
        for device in devices { device.takeQueue() }
        try guest.read(upTo: 64 << 10)
        checkBounds()
      }
      expect(guest.isAnswered, "not all is answered: \(guest)")
      try settle()
      try guest.read(upTo: 1 << 20)
      expect(guest.isAnswered, "more is answered than was said")
      expect(guest.lent.isEmpty, "a buffer is over, and its lender was not told")
    }
    try hangUp()
    for user in imports where !user.isOver { registry.release(user) }
    let now = registry.statistics
    expect(now.imports == 0 && now.watchers == 0, "somebody still has something: \(now)")
    port.close()
  }
}

/// The guest's end of a connection: knows what is to be answered to what it has written, and looks at what it reads.
private final class GuestEnd: CustomStringConvertible {
  private let socket: UnixSocket
  private let limit: Int
  private var input: [UInt8] = []
  /// The beginning of a line that has no end yet; nil once it is too long.
  private var line: [UInt8]? = []
  /// There was a hello.
  private var isInSession = false
  /// The ids of the answers to come.
  private var awaited: [Int?] = []
  private var read = 0
  /// The lent buffers of the session that has answered last.
  private(set) var lent: [String] = []

  init(_ socket: consuming UnixSocket, limit: Int) {
    self.socket = socket
    self.limit = limit
  }

  var isAnswered: Bool { read == awaited.count }
  var description: String { "\(read) of \(awaited.count), \(lent.count) lent" }

  func write(_ bytes: [UInt8]) throws {
    let count: Int
    do throws(Errno) { count = unsafe try socket.send(bytes.span.bytes) } catch {
      return expect(error == .wouldBlock, "sending: \(error)")
    }
    for byte in bytes.prefix(count) {
      switch byte {
      case 0xff: line = []
      case 0x0a:
        say(line)
        line = []
      default:
        line?.append(byte)
        if let length = line?.count, length >= limit { line = nil }
      }
    }
  }

  /// - Parameter line: nil if it is too long.
  private func say(_ line: [UInt8]?) {
    guard let line else {
      if isInSession { awaited.append(nil) }
      return
    }
    do throws(PortCommand.Refusal) {
      let command = try PortCommand.read(line)
      if case .hello = command.action { isInSession = true }
      if isInSession { awaited.append(command.id) }
    } catch {
      if isInSession || error.isHello { awaited.append(error.id) }
      if error.error.name == .wrongVersion { isInSession = false }
    }
  }

  func read(upTo count: Int) throws {
    var none = ReceivedDescriptors()
    do throws(Errno) { _ = try socket.receive(into: &input, upTo: count, descriptors: &none) } catch {
      return expect(error == .wouldBlock, "receiving: \(error)")
    }
    while let end = input.firstIndex(of: 0x0a) {
      hear(Data(input[..<end]))
      input.removeFirst(end + 1)
    }
    expect(input.count <= 64 << 10, "a line of the helper is too long")
  }

  // MARK: The forms of docs/port.md

  private struct Line: Decodable {
    struct Limits: Decodable { let line, buffers, metadata: Int }
    struct Return: Decodable {
      let session: String?
      let limits: Limits?
      let audiences: [String]?
      let device, epoch: Int?
      let buffer: BufferID?
    }
    struct Error: Decodable { let `class`, desc: String }
    let `return`: Return?
    let error: Error?
    let event: String?
    let data: EventData?
    let id: Int?
  }

  private struct EventData: Decodable {
    let buffer: BufferID?
    let count, bytesUsed, timestamp, lost, cutOff, device, epoch: Int?
    let mode: AccessMode?
    let reason: RevocationReason?
    let metadata: BufferMetadata?
    let reading: Bool?
  }

  private func hear(_ bytes: Data) {
    guard let line = try? JSONDecoder().decode(Line.self, from: bytes) else {
      fail("no line of the helper's: \(String(decoding: bytes, as: UTF8.self))")
    }
    let kinds = [line.return != nil, line.error != nil, line.event != nil]
    expect(kinds.count { $0 } == 1, "one kind")
    if let event = line.event { return hear(event, line) }
    expect(read < awaited.count && awaited[read] == line.id, "an answer to another line, or to none")
    read += 1
    if let error = line.error {
      if error.class == PortError.Name.wrongVersion.rawValue { lent = [] }
      return expect(PortError.Name(rawValue: error.class) != nil && !error.desc.isEmpty, "an error by name")
    }
    expect(line.id != nil, "a return has an id")
    guard let value = line.return else { return }
    if value.session != nil {
      expect(value.limits?.line == limit && value.audiences == ["a"], "what a hello returns")
      lent = []
    } else if let buffer = value.buffer {
      if !lent.contains("\(buffer)") { lent.append("\(buffer)") }
    } else {
      expect((value.device == nil) == (value.epoch == nil), "what a proof returns")
    }
  }

  private func hear(_ event: String, _ line: Line) {
    expect(line.id == nil, "an event has no id")
    guard let data = line.data else { fail("an event has data") }
    if event == "deviceReset" {
      return expect(data.device != nil && data.epoch != nil && data.buffer == nil, "a reset names its device")
    }
    guard let buffer = data.buffer.map({ "\($0)" }), let index = lent.firstIndex(of: buffer) else {
      // One of the session before this is not told any more.
      fail("an event of a buffer that is not lent: \(event)")
    }
    switch event {
    case "importers": expect(data.count != nil, event)
    case "accessBegun": expect(data.mode != nil, event)
    case "accessEnded", "fillAborted": break
    case "filled": expect(data.bytesUsed != nil && data.metadata != nil && data.lost != 0, event)
    case "returned":
      expect(data.cutOff != nil && data.reading == false, event)
      lent.remove(at: index)
    case "revoked":
      expect(data.reason == .resourceGone || data.reason == .deviceReset, event)
      lent.remove(at: index)
    default: fail("an event that is not known: \(event)")
    }
  }
}
