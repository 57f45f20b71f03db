import Fixtures
import Foundation
import Glibc
import Guest
import Lending
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Buffers
@testable import LendingService
@testable import Varlink

/// A guest that lends, and the socket on which its buffers can be imported.
final class LendingRig {
  static let camera = Audience(users: [4001, 4002], groups: [50])
  let directory: FilePath
  let loop: EventLoop
  let registry: Registry
  let interface: BuffersInterface
  /// What the host offers, with room for 64 pages.
  let offers: OfferTable
  let sharing = FakeOfferDevice()
  let server: VarlinkServer
  let session: UInt64
  /// Is said to be at the other end of connections that begin.
  var peer = PeerCredentials(pid: 77, user: 0, groups: [])
  /// Makes dma-bufs, in the test host; elsewhere memfds stand for them.
  private let device: UdmabufDevice?
  private let time = Clock()
  private let ram: GuestRAM
  private var lastResource: UInt32 = 0

  private final class Clock {
    var offset = TimeSpan.zero
  }

  init(_ limits: LendingLimits = LendingLimits(), watchers: Int = 32, isSharing: Bool = true) throws {
    device = try TestHost.isActive ? UdmabufDevice() : nil
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    registry = Registry(
      limits: limits, audiences: ["camera": Self.camera], clock: { [time] in .now + time.offset },
      awaitDevices: { [loop] pages, whenOver in
        pages.dmabuf.flatMap { DeviceWait($0, loop, whenOver: whenOver) }
      })
    session = registry.beginSession()
    var most = OfferLimits()
    most.offers = 16
    offers = OfferTable(sharing, number: 1, limits: most, clock: { [time] in .now + time.offset })
    let made: Result<UdmabufDevice, Errno> = device.map { .success($0) } ?? .failure(.noSuchFileOrDirectory)
    let maker = try OfferMaker(udmabuf: made, copied: nil)
    let service = OffersService(offers, loop: loop) { id, fd, uses, token throws(OfferObstacle) in
      try maker.make(id, of: fd, uses: uses, token: token)
    }
    interface = BuffersInterface(
      registry, isSharing ? service : nil, watchers: WatcherLimit(watchers), loop: loop)
    ram = try GuestRAM(size: 1 << 20)
    server = try VarlinkServer(
      UnixSocket.listen(directory.appending("socket")),
      info: VarlinkInfo(vendor: "udmabridge", product: "test", version: "1", url: ""),
      interfaces: [interface], takesDescriptors: true, loop: loop
    ) { _ in true }
    interface.identify = { [unowned self] _ in peer }
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// What was lent, as the lender and the test know it.
  struct Lent {
    let id: BufferID
    let owner: LenderID
    let place: ResourcePlace
    /// The dma-buf's memory, or what stands for the dma-buf.
    let memfd: Memfd
    let pages: Buffer
  }

  /// Lends a part of two pieces of the guest's memory, of four pages together.
  func lend(
    offset: UInt64 = 100, size: UInt64 = 5000, use: BufferUse = .read, to audiences: [String] = [],
    metadata: BufferMetadata = BufferMetadata(), by lender: Int = 1
  ) throws -> Lent {
    let memfd = try Memfd.create(name: "lent", size: 4 * systemPageSize, seals: .shrink)
    let dmabuf =
      try device?.create(MemfdRange(memfd: memfd, offset: 0, length: 4 * systemPageSize))
      ?? DMABuf(adopting: memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() })
    let ranges = try ram.memory.resolve(
      [
        GuestRange(address: GuestAddress(0), length: systemPageSize),
        GuestRange(address: GuestAddress(4 * systemPageSize), length: 3 * systemPageSize),
      ], upTo: 4 * systemPageSize)
    let pages = Buffer(ranges: ranges, of: ram.memory, entries: 2, backing: .lent(dmabuf))
    lastResource += 1
    let place = ResourcePlace(device: 1, epoch: 1, resource: lastResource)
    let owner = LenderID(session: session, number: lender)
    let request = LendingRequest(
      offset: offset, size: size, use: use, audiences: audiences, metadata: metadata)
    let id = try registry.lend(request, of: pages, at: place, by: owner)
    return Lent(id: id, owner: owner, place: place, memfd: memfd, pages: pages)
  }

  /// Its lender wants it back.
  func takeBack(_ lent: Lent, after delay: TimeSpan = .zero, patience: TimeSpan = .seconds(1)) throws {
    try registry.takeBack(lent.id, by: lent.owner, after: delay, patience: patience)
  }

  /// The guest's driver takes the pages, and gets them when nobody uses them or patience is over.
  func revoke(_ lent: Lent) {
    for borrower in lent.pages.borrowers { _ = borrower.pagesAreWanted(isReset: false) }
  }

  /// It is later.
  func pass(_ span: TimeSpan) throws {
    time.offset = time.offset + span
    registry.expire()
    offers.expire()
    try settle()
  }

  /// Handles what there is to do.
  func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    Issue.record("the loop does not come to rest")
  }

  /// Waits for what follows the end of a descriptor, of which a process that another test starts just then has a copy
  /// for a moment.
  func waitUntil(_ what: String, _ condition: () throws -> Bool) throws {
    try loop.turn(until: what, condition)
  }

  /// - Parameter user: who it is said to be; root, if nobody is named.
  func connect(as user: UInt32 = 0, groups: Set<UInt32> = [], pid: Int32 = 77) throws -> Asker {
    let asker = Asker(try UnixSocket.connect(directory.appending("socket")), self)
    asker.peer = PeerCredentials(pid: pid, user: user, groups: groups)
    try settle()
    return asker
  }
}

/// Another process, as it were.
final class Asker {
  fileprivate(set) var peer = PeerCredentials(pid: 0, user: 0, groups: [])
  private let socket: UnixSocket
  private unowned let rig: LendingRig
  private var input: [UInt8] = []
  private(set) var isClosed = false
  /// What came last.
  var dmabuf: FD?
  var token: FD?

  init(_ socket: consuming UnixSocket, _ rig: LendingRig) {
    self.socket = consume socket
    self.rig = rig
  }

  deinit { socket.shutDown() }

  /// - Parameter descriptors: go with it.
  func send(
    _ method: String, _ parameters: String = "{}", flags: String = "", passing descriptors: [CInt] = []
  ) throws {
    rig.peer = peer
    let call = #"{"method":"io.udmabridge.Buffers.\#(method)","parameters":\#(parameters)\#(flags)}"#
    _ = unsafe try socket.send(Array((call + "\0").utf8).span.bytes, rawDescriptors: descriptors)
    try rig.settle()
  }

  /// What has come, message by message.
  func messages() throws -> [[UInt8]] {
    try rig.settle()
    while !isClosed {
      var descriptors = ReceivedDescriptors()
      do throws(Errno) {
        isClosed = try socket.receive(into: &input, upTo: 8192, descriptors: &descriptors) == 0
      } catch {
        if error == .wouldBlock { break }
        isClosed = true
      }
      if let fd = descriptors.take(0) { dmabuf = consume fd }
      if let fd = descriptors.take(1) { token = consume fd }
      try rig.settle()
    }
    guard let last = input.lastIndex(of: 0) else { return [] }
    let whole = input[..<last].split(separator: 0).map(Array.init)
    input.removeFirst(last + 1)
    return whole
  }

  /// The answer as it came.
  func raw(_ method: String, _ parameters: String = "{}", passing descriptors: [CInt] = []) throws -> String {
    try send(method, parameters, passing: descriptors)
    let message = try #require(try messages().first, "no answer")
    return String(decoding: message, as: UTF8.self)
  }

  private struct Reply<Parameters: Decodable>: Decodable { let parameters: Parameters }

  func ask<Parameters: Decodable>(
    _ method: String, _ parameters: String = "{}", as type: Parameters.Type = Parameters.self,
    passing descriptors: [CInt] = []
  ) throws -> Parameters {
    let text = try raw(method, parameters, passing: descriptors)
    do { return try JSONDecoder().decode(Reply<Parameters>.self, from: Data(text.utf8)).parameters } catch {
      throw TroubleInTest(text)
    }
  }

  /// Calls a method that answers nothing.
  func tell(_ method: String, _ parameters: String) throws {
    _ = try ask(method, parameters, as: EmptyObject.self)
  }

  func tell(_ method: String, _ lent: LendingRig.Lent) throws { try tell(method, #"{"id":"\#(lent.id)"}"#) }

  private struct ErrorReply: Decodable {
    let error: String
    let parameters: [String: Value]
    enum Value: Decodable {
      case number(Int)
      case text(String)
      init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        self = try (try? value.decode(Int.self)).map { .number($0) } ?? .text(value.decode(String.self))
      }
    }
  }

  /// The error's name without its interface, and its parameter.
  func fail(_ method: String, _ parameters: String, passing descriptors: [CInt] = []) throws -> String {
    let text = try raw(method, parameters, passing: descriptors)
    guard let reply = try? JSONDecoder().decode(ErrorReply.self, from: Data(text.utf8)) else {
      throw TroubleInTest("no error: \(text)")
    }
    let parameter = reply.parameters.values.first.map {
      switch $0 {
      case .number(let number): " \(number)"
      case .text(let text): " \(text)"
      }
    }
    return "\(reply.error.split(separator: ".").last!)\(parameter ?? "")"
  }

  func fail(_ method: String, _ lent: LendingRig.Lent) throws -> String {
    try fail(method, #"{"id":"\#(lent.id)"}"#)
  }

  /// The events of a call of Watch.
  func events<Event: Decodable>(_: Event.Type = BuffersEvent.self) throws -> [Event] {
    try messages().map { try JSONDecoder().decode(Reply<Event>.self, from: Data($0)).parameters }
  }

  func watch() throws { try send("Watch", flags: #","more":true"#) }
}

/// An import, and the two descriptors that came with it.
final class Holding {
  let reply: ImportReply
  var dmabuf: FD?
  var token: FD?

  init(_ asker: Asker, _ lent: LendingRig.Lent, forWriting: Bool? = nil) throws {
    let flag = forWriting.map { #","forWriting":\#($0)"# } ?? ""
    reply = try asker.ask("Import", #"{"id":"\#(lent.id)"\#(flag)}"#)
    dmabuf = asker.dmabuf.take()
    token = asker.token.take()
    guard dmabuf != nil, token != nil else { throw TroubleInTest("two descriptors did not come") }
  }

  /// What poll says of the token, asked for nothing.
  var isCutOff: Bool {
    guard let raw = token?.withRaw({ $0 }) else { return false }
    var one = pollfd(fd: raw, events: 0, revents: 0)
    return unsafe poll(&one, 1, 0) == 1 && Int32(one.revents) & POLLERR != 0
  }
}
