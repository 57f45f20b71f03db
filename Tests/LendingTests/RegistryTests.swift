import Buffers
import Fixtures
import LendingProtocol
import Linux
import Testing

@testable import Lending

/// The rules by which buffers are lent, used, and end.
@Suite struct RegistryTests {
  private typealias State = LentBuffer.State

  // MARK: Lending

  struct Refusal: CustomTestStringConvertible, Sendable {
    let request: LendingRequest
    let error: LendingError
    let testDescription: String

    init(_ testDescription: String, _ request: LendingRequest, _ error: LendingError) {
      (self.testDescription, self.request, self.error) = (testDescription, request, error)
    }
  }

  private static func request(
    _ offset: UInt64 = 0, _ size: UInt64 = 4096, to audiences: [String] = [], _ metadata: String = ""
  ) -> LendingRequest {
    LendingRequest(
      offset: offset, size: size, audiences: audiences, metadata: BufferMetadata(values: ["": metadata]))
  }

  private static let long = String(repeating: "x", count: 4097)

  static let refusals = [
    Refusal("no bytes", request(0, 0), .outOfRange(offset: 0, size: 0, of: 8192)),
    Refusal("a byte too many", request(0, 8193), .outOfRange(offset: 0, size: 8193, of: 8192)),
    Refusal("a byte behind the end", request(8192, 1), .outOfRange(offset: 8192, size: 1, of: 8192)),
    Refusal(
      "an end beyond all numbers", request(.max, 2), .outOfRange(offset: .max, size: 2, of: 8192)),
    Refusal("an audience that the host does not define", request(to: ["video", "x"]), .noSuchAudience("x")),
    Refusal(
      "more audiences than may be named", request(to: Array(repeating: "video", count: 17)),
      .tooManyAudiences(limit: 16)),
    Refusal("a byte of metadata too many", request(0, 1, long), .metadataTooLong(4097, limit: 4096)),
  ]

  @Test("a request that cannot be lent is refused, and leaves nothing behind", arguments: refusals)
  func refuses(_ item: Refusal) throws {
    let scene = try Scene()
    let pages = try LendableBuffer(pages: 2).buffer
    #expect(throws: item.error) {
      try scene.registry.lend(item.request, of: pages, at: scene.place(1), by: scene.lender())
    }
    #expect(pages.borrowers.isEmpty && scene.registry.list(for: Scene.trusted).isEmpty)
    #expect(scene.registry.statistics == LendingStatistics())
    _ = try scene.registry.lend(
      Self.request(4096, 4096, to: Array(repeating: "video", count: 16), String(Self.long.dropLast())),
      of: pages, at: scene.place(1), by: scene.lender())
  }

  @Test("a guest has no more buffers lent at once than it may, and others once some have ended") func limit()
    throws
  {
    var limits = LendingLimits()
    limits.buffers = 2
    let scene = try Scene(limits)
    let first = try scene.lend()
    _ = try scene.lend()
    #expect(throws: LendingError.tooManyBuffers(limit: 2)) { try scene.lend() }
    let user = try scene.takeImport(first)
    try scene.takeBack(first)
    #expect(throws: LendingError.tooManyBuffers(limit: 2), "it is on its way") { try scene.lend() }
    scene.registry.release(user)
    _ = try scene.lend()
  }

  enum Again: CaseIterable { case whileLent, anotherLender, anotherPart, toOthers, otherUse, same }

  @Test(
    "a resource is registered once; lending it again in the same way cancels its return",
    arguments: Again.allCases)
  func lendsAgain(_ way: Again) throws {
    let scene = try Scene()
    let buffer = try scene.lend(to: ["video"])
    let user = try scene.takeImport(buffer)
    if way != .whileLent { try scene.takeBack(buffer) }
    let state = buffer.state
    let lender = scene.lender(way == .anotherLender ? 2 : 1)
    var request = buffer.request
    request.metadata.values = ["new": "one"]
    switch way {
    case .anotherPart: request.size -= 1
    case .toOthers: request.audiences = []
    case .otherUse: request.use = .write
    case .whileLent, .anotherLender, .same: break
    }
    let pages = try #require(buffer.pages)
    func again() throws -> BufferID {
      try scene.registry.lend(request, of: pages, at: buffer.place, by: lender)
    }
    if way == .same {
      #expect(try again() == buffer.id)
      #expect(buffer.state == .lent(returns: nil) && buffer.request == request)
      scene.pass(.seconds(3600))
      #expect(buffer.state == .lent(returns: nil) && buffer.imports.count == 1)
      scene.registry.release(user)
      #expect(buffer.state == .lent(returns: nil))
    } else {
      #expect(throws: LendingError.alreadyLent(buffer.place)) { try again() }
      #expect(buffer.state == state && buffer.request.metadata == BufferMetadata())
    }
  }

  @Test("a lender cannot change, take back or end the buffers of another") func owners() throws {
    let scene = try Scene()
    let buffer = try scene.lend(by: 1)
    for owner in [scene.lender(2), LenderID(session: scene.session + 1, number: 1)] {
      #expect(throws: LendingError.noSuchBuffer) {
        try scene.registry.setMetadata(BufferMetadata(), of: buffer.id, by: owner)
      }
      #expect(throws: LendingError.noSuchBuffer) {
        try scene.registry.takeBack(buffer.id, by: owner, after: .zero, patience: .zero)
      }
      #expect(throws: LendingError.noSuchBuffer) {
        try scene.registry.beginAccess(.read, to: buffer.id, by: owner)
      }
      #expect(throws: LendingError.noSuchBuffer) { try scene.registry.endAccess(to: buffer.id, by: owner) }
      scene.registry.endLender(owner)
    }
    #expect(buffer.state == .lent(returns: nil))
  }

  @Test("metadata is replaced as a whole, within its limit") func metadata() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    try scene.registry.setMetadata(BufferMetadata(values: ["a": "1"]), of: buffer.id, by: buffer.owner)
    try scene.registry.setMetadata(BufferMetadata(values: ["b": "2"]), of: buffer.id, by: buffer.owner)
    #expect(throws: LendingError.metadataTooLong(4098, limit: 4096)) {
      try scene.registry.setMetadata(
        BufferMetadata(values: ["a": Self.long]), of: buffer.id, by: buffer.owner)
    }
    #expect(buffer.request.metadata == BufferMetadata(values: ["b": "2"]))
  }

  // MARK: Returning

  @Test("a buffer without importers is back at once, and its id is unknown") func returnsAtOnce() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    let pages = try #require(buffer.pages)
    try scene.takeBack(buffer)
    #expect(
      buffer.state == .returned(cutOff: 0, isRead: false) && buffer.pages == nil && pages.borrowers.isEmpty)
    #expect(throws: LendingError.noSuchBuffer) { try scene.takeBack(buffer) }
    #expect(throws: LendingError.noSuchBuffer) { try scene.takeImport(buffer) }
    let again = try scene.registry.lend(buffer.request, of: pages, at: buffer.place, by: buffer.owner)
    #expect(again != buffer.id)
  }

  @Test("a return waits for the last importer, and lets no other one in") func waitsForImporters() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    var cutOff = 0
    let users = try (0..<2).map { _ in try scene.takeImport(buffer) { cutOff += 1 } }
    try scene.takeBack(buffer, patience: .seconds(5))
    #expect(buffer.state == .returning(until: scene.now + .seconds(5)))
    #expect(throws: LendingError.isReturning) { try scene.takeImport(buffer) }
    scene.registry.release(users[0])
    scene.registry.release(users[0])
    #expect(buffer.imports.count == 1)
    scene.pass(.seconds(5) - .nanoseconds(1))
    #expect(!buffer.isOver)
    scene.registry.release(users[1])
    #expect(buffer.state == .returned(cutOff: 0, isRead: false) && cutOff == 0)
    #expect(scene.registry.deadline == nil)
  }

  @Test("importers that miss the deadline of a return are cut off and counted") func cutsOff() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    let pages = try #require(buffer.pages)
    var cutOff = 0
    let users = try (0..<3).map { _ in try scene.takeImport(buffer) { cutOff += 1 } }
    try scene.takeBack(buffer, patience: .seconds(5))
    scene.registry.release(users[0])
    scene.pass(.seconds(5))
    #expect(buffer.state == .returned(cutOff: 2, isRead: false) && cutOff == 2)
    #expect(users.allSatisfy(\.isOver) && pages.borrowers.isEmpty)
    for user in users { scene.registry.release(user) }
    let all = scene.registry.statistics
    #expect(all.cutOff == 2 && all.imports == 0 && all.imported == 3 && all.returned == 1 && all.revoked == 0)
  }

  /// As one whose process had several imports, which all end when it hears that one does.
  @Test("an importer that is cut off may let go of all it has just then", arguments: [true, false])
  func letsGoWhenCutOff(_ isReturn: Bool) throws {
    let scene = try Scene()
    let (buffer, other) = (try scene.lend(), try scene.lend())
    var users: [Import] = []
    var told = 0
    func letGo() {
      told += 1
      for user in users { scene.registry.release(user) }
    }
    for buffer in [buffer, buffer, other, buffer] {
      users.append(try scene.takeImport(buffer, whenCutOff: letGo))
    }
    if isReturn {
      try scene.takeBack(buffer)
      scene.pass(.seconds(1))
    } else {
      for borrower in try #require(buffer.pages).borrowers { borrower.pagesAreGone() }
    }
    #expect(buffer.state == (isReturn ? .returned(cutOff: 3, isRead: false) : .revoked(.resourceGone)))
    #expect(told == 3, "of each import once")
    #expect(scene.registry.statistics.imports == 0 && scene.registry.statistics.cutOff == 3)
    #expect(other.imports.isEmpty && !other.isOver)
  }

  @Test("a delayed return begins when its time comes, unless it is cancelled") func delays() throws {
    let scene = try Scene()
    let (kept, given) = (try scene.lend(), try scene.lend())
    let user = try scene.takeImport(given)
    for buffer in [kept, given] { try scene.takeBack(buffer, after: .seconds(60), patience: .seconds(2)) }
    #expect(given.state == .lent(returns: scene.now + .seconds(60)))
    let late = try scene.takeImport(given)
    _ = try scene.registry.lend(kept.request, of: #require(kept.pages), at: kept.place, by: kept.owner)
    scene.pass(.seconds(60))
    #expect(kept.state == .lent(returns: nil) && given.state == .returning(until: scene.now + .seconds(2)))
    for user in [user, late] { scene.registry.release(user) }
    #expect(given.state == .returned(cutOff: 0, isRead: false))
  }

  @Test("a delay can be replaced by another one, and by none") func otherDelay() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    try scene.takeBack(buffer, after: .seconds(60))
    try scene.takeBack(buffer, after: .seconds(90))
    #expect(scene.registry.deadline == scene.now + .seconds(90))
    try scene.takeBack(buffer)
    #expect(buffer.isOver && scene.registry.deadline == nil)
  }

  @Test("a return that has begun can be made to end sooner, and not later") func onlySooner() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    _ = try scene.takeImport(buffer)
    try scene.takeBack(buffer, patience: .seconds(10))
    let end = scene.now + .seconds(10)
    try scene.takeBack(buffer, after: .seconds(60), patience: .seconds(60))
    #expect(buffer.state == .returning(until: end))
    scene.pass(.seconds(1))
    try scene.takeBack(buffer, patience: .seconds(3))
    #expect(buffer.state == .returning(until: scene.now + .seconds(3)))
  }

  @Test("all that a lender has lent goes back when it goes, within a second") func lenderGoes() throws {
    let scene = try Scene()
    let (free, used, other) = (try scene.lend(by: 1), try scene.lend(by: 1), try scene.lend(by: 2))
    let (late, under) = (try scene.lend(by: 1), try scene.lend(by: 1))
    for buffer in [used, late, under] { _ = try scene.takeImport(buffer) }
    try scene.takeBack(late, after: .seconds(600), patience: .seconds(600))
    try scene.takeBack(under, patience: .seconds(600))
    scene.registry.endLender(scene.lender(1))
    let end = State.returning(until: scene.now + .seconds(1))
    #expect(free.isOver && used.state == end && late.state == end && under.state == end)
    #expect(other.state == .lent(returns: nil))
    scene.pass(.seconds(1))
    for buffer in [used, late, under] { #expect(buffer.state == .returned(cutOff: 1, isRead: false)) }
  }

  @Test("a return waits for a device that reads when the last importer has let go")
  func waitsForDevices()
    throws
  {
    let scene = try Scene()
    let buffer = try scene.lend()
    let user = try scene.takeImport(buffer)
    try scene.takeBack(buffer)
    scene.device = try BusyDevice()
    scene.registry.release(user)
    #expect(buffer.state == .returning(until: scene.now + .seconds(1)))
    try scene.device?.finish()
    try scene.settle()
    #expect(buffer.state == .returned(cutOff: 0, isRead: false) && scene.registry.deadline == nil)
  }

  @Test(
    "the lender hears that a device still reads when patience is over, whether importers were cut off or not",
    arguments: [0, 1])
  func deviceIsLate(_ importers: Int) throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    for _ in 0..<importers { _ = try scene.takeImport(buffer) }
    scene.device = try BusyDevice()
    try scene.takeBack(buffer)
    scene.pass(.seconds(1))
    #expect(buffer.state == .returned(cutOff: importers, isRead: true))
    try scene.device?.finish()
    try scene.settle()
    #expect(buffer.state == .returned(cutOff: importers, isRead: true))
  }

  @Test("a device that is done with a buffer does not end a return that was cancelled")
  func deviceOfTheLastReturn()
    throws
  {
    let scene = try Scene()
    let buffer = try scene.lend()
    scene.device = try BusyDevice()
    try scene.takeBack(buffer)
    _ = try scene.registry.lend(
      buffer.request, of: #require(buffer.pages), at: buffer.place, by: buffer.owner)
    _ = try scene.takeImport(buffer)
    try scene.takeBack(buffer)
    try scene.device?.finish()
    try scene.settle()
    #expect(buffer.state == .returning(until: scene.now + .seconds(1)))
  }

  // MARK: Revoking

  /// The device asks for the pages of these, as `PageReturns` does.
  private func want(_ buffers: LentBuffer..., isReset: Bool = false) -> [Instant?] {
    buffers.map { $0.pages?.borrowers.first?.pagesAreWanted(isReset: isReset) }
  }

  @Test("a buffer without importers is revoked at once") func revokesAtOnce() throws {
    let scene = try Scene()
    let buffer = try scene.lend()
    let pages = try #require(buffer.pages)
    #expect(want(buffer) == [nil])
    #expect(
      buffer.state == .revoked(.resourceGone) && pages.borrowers.isEmpty && scene.registry.deadline == nil)
  }

  enum End: CaseIterable {
    case resource, reset, session, agent
    var reason: RevocationReason {
      switch self {
      case .resource: .resourceGone
      case .reset: .deviceReset
      case .session, .agent: .sessionEnded
      }
    }
  }

  @Test(
    "the importers of revoked buffers have one second in all, however many buffers there are",
    arguments: End.allCases)
  func oneSecond(_ end: End) throws {
    let scene = try Scene()
    let buffers = try (0..<3).map { _ in try scene.lend() }
    let pages = try buffers.map { try #require($0.pages) }
    var cutOff = 0
    for buffer in buffers { _ = try scene.takeImport(buffer) { cutOff += 1 } }
    let deadline = scene.now + .seconds(1)
    switch end {
    case .resource, .reset:
      for (index, buffer) in buffers.enumerated() {
        #expect(want(buffer, isReset: end == .reset) == [deadline], "buffer \(index)")
        scene.pass(.milliseconds(300))
      }
    case .session: scene.registry.endSession()
    case .agent: scene.hello()
    }
    for buffer in buffers { #expect(buffer.state == .revoked(end.reason) && buffer.imports.count == 1) }
    #expect(scene.registry.deadline == deadline && cutOff == 0)
    #expect(scene.registry.list(for: Scene.trusted).isEmpty)
    // DETACH of what the session had lent asks once more, and the reason is the first one.
    #expect(want(buffers[2]) == [deadline] && buffers[2].state == .revoked(end.reason))
    scene.pass(deadline - scene.now)
    #expect(cutOff == 3 && pages.allSatisfy(\.borrowers.isEmpty) && scene.registry.deadline == nil)
    let all = scene.registry.statistics
    #expect(all.revoked == 3 && all.returned == 0 && all.cutOff == 3 && all.imports == 0)
  }

  /// The driver asks for one buffer after the other, and for the next when it has the last.
  @Test("only the waiting counts against the second that is for all") func waitingCounts() throws {
    let scene = try Scene()
    let buffers = try (0..<4).map { _ in try scene.lend() }
    let users = try buffers.map { try scene.takeImport($0) }
    #expect(want(buffers[0]) == [scene.now + .seconds(1)])
    scene.pass(.milliseconds(100))
    scene.registry.release(users[0])
    scene.pass(.milliseconds(1900))
    #expect(want(buffers[1]) == [scene.now + .milliseconds(900)])
    scene.pass(.milliseconds(900))
    #expect(users[1].isOver)
    scene.pass(.milliseconds(1500))
    #expect(want(buffers[2]) == [scene.now], "there is nothing left for it")
    scene.registry.expire()
    #expect(users[2].isOver)
    scene.pass(.milliseconds(2001))
    #expect(want(buffers[3]) == [scene.now + .seconds(1)], "it does not belong to the others any more")
  }

  @Test("a buffer that is revoked without importers takes none of the others' time") func noImporters() throws
  {
    let scene = try Scene()
    let (free, used) = (try scene.lend(), try scene.lend())
    _ = try scene.takeImport(used)
    #expect(want(free) == [nil])
    scene.pass(.milliseconds(1500))
    #expect(want(used) == [scene.now + .seconds(1)])
  }

  @Test("a return that is under way when the pages go is revoked") func revokedWhileReturning() throws {
    let scene = try Scene()
    let (held, read) = (try scene.lend(), try scene.lend())
    let user = try scene.takeImport(held)
    for buffer in [held, read] {
      scene.device = buffer === read ? try BusyDevice() : nil
      try scene.takeBack(buffer, patience: .seconds(60))
    }
    #expect(want(held, read) == [scene.now + .seconds(1), nil])
    #expect(held.state == .revoked(.resourceGone) && read.state == .revoked(.resourceGone))
    scene.registry.release(user)
    #expect(held.state == .revoked(.resourceGone) && scene.registry.deadline == nil)
    #expect(scene.registry.statistics.cutOff == 0)
  }

  @Test("importers are cut off when the guest has the pages, whether they were asked before or not")
  func pagesGo()
    throws
  {
    let scene = try Scene()
    let (asked, taken) = (try scene.lend(), try scene.lend())
    let pages = try [asked, taken].map { try #require($0.pages) }
    var cutOff = 0
    for buffer in [asked, taken] { _ = try scene.takeImport(buffer) { cutOff += 1 } }
    _ = want(asked)
    for pages in pages { for borrower in pages.borrowers { borrower.pagesAreGone() } }
    #expect(cutOff == 2 && asked.state == .revoked(.resourceGone) && taken.state == .revoked(.resourceGone))
    #expect(pages.allSatisfy(\.borrowers.isEmpty) && scene.registry.statistics.cutOff == 2)
  }

  @Test("no session has the number of an earlier one") func sessionNumbers() throws {
    let scene = try Scene()
    var numbers: Set<UInt64> = [scene.session]
    for _ in 0..<3 {
      scene.hello()
      #expect(numbers.insert(scene.session).inserted)
      scene.registry.endSession()
      scene.registry.endSession()
    }
  }

  // MARK: Importing and filling

  @Test("the limit of imports counts those of live and of revoked buffers") func importLimit()
    throws
  {
    var limits = LendingLimits()
    limits.imports = 2
    let scene = try Scene(limits)
    let (first, second) = (try scene.lend(), try scene.lend())
    _ = try scene.takeImport(first)
    let user = try scene.takeImport(second)
    #expect(throws: LendingError.tooManyImports(limit: 2)) { try scene.takeImport(second) }
    _ = want(first)
    #expect(throws: LendingError.tooManyImports(limit: 2)) { try scene.takeImport(second) }
    scene.registry.release(user)
    _ = try scene.takeImport(second)
    scene.pass(.seconds(1))
    _ = try scene.takeImport(second)
  }

  @Test("one importer at a time fills a buffer that was lent for that, within its bounds") func fills() throws
  {
    let scene = try Scene()
    let (buffer, other) = (try scene.lend(use: .fill), try scene.lend(use: .write))
    let users = try (0..<2).map { _ in try scene.takeImport(buffer) }
    #expect(throws: LendingError.notForFilling) { try scene.registry.beginFill(by: scene.takeImport(other)) }
    let fill = Fill(bytesUsed: 4096, timestamp: 7, metadata: BufferMetadata(values: ["a": "b"]))
    #expect(throws: LendingError.notFilling) { try scene.registry.endFill(fill, by: users[0]) }
    try scene.registry.beginFill(by: users[0])
    try scene.registry.beginFill(by: users[0])
    #expect(throws: LendingError.filledByAnother) { try scene.registry.beginFill(by: users[1]) }
    #expect(throws: LendingError.notFilling) { try scene.registry.endFill(fill, by: users[1]) }
    #expect(throws: LendingError.outOfRange(offset: 0, size: 4097, of: 4096)) {
      try scene.registry.endFill(Fill(bytesUsed: 4097), by: users[0])
    }
    #expect(throws: LendingError.metadataTooLong(4097, limit: 4096)) {
      try scene.registry.endFill(
        Fill(bytesUsed: 1, metadata: BufferMetadata(values: ["": Self.long])), by: users[0])
    }
    #expect(buffer.fills == 0 && buffer.filler === users[0], "it can still be done right")
    try scene.registry.endFill(fill, by: users[0])
    #expect(buffer.fills == 1 && buffer.lastFill == fill && buffer.filler == nil)
    try scene.registry.beginFill(by: users[1])
  }

  @Test("a fill can be ended while the buffer returns, and none begins then") func fillsWhileReturning()
    throws
  {
    let scene = try Scene()
    let buffer = try scene.lend(use: .fill)
    let users = try (0..<2).map { _ in try scene.takeImport(buffer) }
    try scene.registry.beginFill(by: users[0])
    try scene.takeBack(buffer)
    try scene.registry.endFill(Fill(bytesUsed: 1), by: users[0])
    #expect(throws: LendingError.isReturning) { try scene.registry.beginFill(by: users[1]) }
    for user in users { scene.registry.release(user) }
    #expect(buffer.fills == 1 && buffer.isOver)
    #expect(throws: LendingError.noSuchBuffer) { try scene.registry.beginFill(by: users[0]) }
  }

  @Test("another one may fill when the filler dies") func fillerDies() throws {
    let scene = try Scene()
    let feed = LendingFeed(.lender(session: scene.session))
    scene.registry.add(feed)
    let buffer = try scene.lend(use: .fill)
    let users = try (0..<2).map { _ in try scene.takeImport(buffer) }
    try scene.registry.beginFill(by: users[0])
    scene.registry.release(users[0])
    #expect(buffer.filler == nil && feed.all().map(\.news) == [.importers, .fillAborted])
    try scene.registry.beginFill(by: users[1])
    #expect(throws: LendingError.notFilling) { try scene.registry.endFill(Fill(bytesUsed: 1), by: users[0]) }
    try scene.registry.endFill(Fill(bytesUsed: 1), by: users[1])
    scene.registry.release(users[1])
    #expect(feed.all().map(\.news) == [.importers, .filled])
  }
}
