import Buffers
import Fixtures
import Lending
import LendingProtocol
import Linux
import Testing

/// A registry, the guest and the importers around it, and a clock that a test sets.
final class Scene {
  static let audiences = ["video": Audience(users: [1000]), "sound": Audience(groups: [29])]
  /// Root or the helper's own user.
  static let trusted = caller(0, isTrusted: true)
  /// Of the audience `video`.
  static let viewer = caller(1000)
  /// Of the audience `sound`, by a group.
  static let listener = caller(1001, groups: [7, 29])
  /// Of none.
  static let stranger = caller(1002, groups: [1000])

  private static func caller(_ user: UInt32, groups: Set<UInt32> = [], isTrusted: Bool = false)
    -> LendingCaller
  {
    LendingCaller(pid: 1, user: user, groups: groups, isTrusted: isTrusted)
  }

  private(set) var now = Instant.now
  /// Works on every buffer, if there is one.
  var device: BusyDevice?
  let loop: EventLoop
  private(set) var registry: Registry!
  private(set) var session: UInt64 = 0
  private var nextResource: UInt32 = 1

  init(_ limits: LendingLimits = LendingLimits()) throws {
    let loop = try EventLoop()
    self.loop = loop
    registry = Registry(
      limits: limits, audiences: Self.audiences, clock: { [unowned self] in now },
      awaitDevices: { [unowned self] in device?.wait(loop, whenOver: $1) })
    session = registry.beginSession()
  }

  func lender(_ number: Int = 1) -> LenderID { LenderID(session: session, number: number) }
  func place(_ resource: UInt32) -> ResourcePlace { ResourcePlace(device: 0, epoch: 1, resource: resource) }

  func hello() { session = registry.beginSession() }

  /// Lends a new resource of one page.
  func lend(
    by lender: Int = 1, use: BufferUse = .read, to audiences: [String] = []
  ) throws -> LentBuffer {
    let request = LendingRequest(offset: 0, size: 4096, use: use, audiences: audiences)
    nextResource += 1
    let id = try registry.lend(
      request, of: LendableBuffer().buffer, at: place(nextResource), by: self.lender(lender))
    return try registry.find(id, for: Self.trusted)
  }

  func takeImport(
    _ buffer: LentBuffer, by caller: LendingCaller = Scene.trusted, whenCutOff: @escaping () -> Void = {}
  ) throws -> Import {
    let new = try registry.importBuffer(buffer.id, for: caller, forWriting: false)
    new.whenCutOff = whenCutOff
    return new
  }

  func takeBack(
    _ buffer: LentBuffer, after delay: TimeSpan = .zero, patience: TimeSpan = .seconds(1)
  ) throws {
    try registry.takeBack(buffer.id, by: buffer.owner, after: delay, patience: patience)
  }

  func pass(_ span: TimeSpan) {
    now = now + span
    while let deadline = registry.deadline, deadline <= now { registry.expire() }
  }

  func settle() throws {
    while try loop.turn(waiting: .zero) > 0 {}
  }
}

extension LendingFeed {
  /// All that is to be told now.
  func all() -> [Told] {
    var told: [Told] = []
    while let event = next() { told.append(Told(event.news, event.buffer.id, lost: event.lost)) }
    return told
  }
}

struct Told: Equatable {
  let news: LendingNews
  let buffer: BufferID
  let lost: Int

  init(_ news: LendingNews, _ buffer: BufferID, lost: Int = 0) {
    (self.news, self.buffer, self.lost) = (news, buffer, lost)
  }
}
