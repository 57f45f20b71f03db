import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing

@testable import LendingService

/// Who gets to know of a buffer, and who does not.
@Suite struct AudienceTests {
  private let rig: LendingRig

  init() throws { rig = try LendingRig() }

  /// Who asks: the user, groups, and whether the audience `camera` has it.
  @Test(
    "only a buffer's audience, root and the helper's user see it, import it and hear of it",
    arguments: [
      (4001, [], true), (4002, [7], true), (4003, [], false), (4003, [50], true), (4003, [49, 51], false),
      (0, [], true), (effectiveUser(), [], true),
    ] as [(UInt32, Set<UInt32>, Bool)])
  func audiences(_ user: UInt32, _ groups: Set<UInt32>, _ isIn: Bool) throws {
    let (all, some) = (try rig.lend(), try rig.lend(to: ["camera"]))
    let asker = try rig.connect(as: user, groups: groups)
    let seen = isIn ? [all.id, some.id] : [all.id]
    #expect(try asker.ask("List", as: BuffersReply.self).buffers.map(\.id) == seen)
    let watcher = try rig.connect(as: user, groups: groups)
    try watcher.watch()
    #expect(try watcher.events().map(\.buffer?.id) == seen)
    if isIn {
      let holding = try Holding(asker, some)
      #expect(!holding.isCutOff)
    } else {
      for method in ["Import", "Query", "Release"] { #expect(try asker.fail(method, some) == "NoSuchBuffer") }
    }
    // What happens to it.
    try rig.registry.setMetadata(BufferMetadata(values: ["a": "b"]), of: some.id, by: some.owner)
    try rig.settle()
    try rig.registry.beginAccess(.write, to: some.id, by: some.owner)
    try rig.settle()
    rig.revoke(some)
    let told = try watcher.events().map(\.event)
    #expect(told == (isIn ? [.metadata, .accessBegun, .revoked] : []))
  }

  @Test("other importers are shown to root and the helper's user alone")
  func importers() throws {
    let lent = try rig.lend()
    let (a, b) = (try rig.connect(as: 4001, pid: 11), try rig.connect(as: 4002, pid: 12))
    let holdings = [try Holding(a, lent), try Holding(b, lent)]
    func query(_ asker: Asker) throws -> QueryReply { try asker.ask("Query", #"{"id":"\#(lent.id)"}"#) }
    #expect(try query(a).importers == nil && query(a).buffer.users == 2)
    #expect(try !a.raw("Query", #"{"id":"\#(lent.id)"}"#).contains("4002"))
    for user in [0, effectiveUser()] {
      let seen = try query(try rig.connect(as: user)).importers
      #expect(seen?.map(\.user) == [4001, 4002] && seen?.map(\.process) == [11, 12])
    }
    #expect(holdings.count == 2)
  }

  /// The methods that name a buffer, and what else they want.
  static let methods = [
    ("Query", ""), ("Import", ""), ("Import", #","forWriting":true"#), ("Release", ""),
    ("BeginAccess", #","mode":"read""#), ("EndAccess", ""), ("Fill", ""), ("Filled", #","bytesUsed":1"#),
  ]

  @Test(
    "an unknown id, a forbidden one and one that is over get the same answer, byte for byte",
    arguments: methods)
  func sameAnswer(_ method: String, _ more: String) throws {
    let asker = try rig.connect(as: 4003)
    let (forbidden, open) = (try rig.lend(use: .fill, to: ["camera"]), try rig.lend(use: .fill))
    let (returned, revoked, cut) = (
      try rig.lend(use: .fill), try rig.lend(use: .fill), try rig.lend(use: .fill)
    )
    let holdings = [try Holding(asker, returned), try Holding(asker, cut)]
    try asker.tell("Release", returned)
    try rig.takeBack(returned)
    try rig.takeBack(cut)
    try rig.pass(.seconds(2))
    rig.revoke(revoked)
    #expect(holdings.map(\.isCutOff) == [true, true])
    #expect(rig.registry.statistics.returned == 2 && rig.registry.statistics.revoked == 1)
    let ids = [BufferID.random(), forbidden.id, returned.id, revoked.id, cut.id]
    let answers = try ids.map { try asker.raw(method, #"{"id":"\#($0)"\#(more)}"#) }
    #expect(
      answers
        == Array(repeating: #"{"error":"io.udmabridge.Buffers.NoSuchBuffer","parameters":{}}"#, count: 5))
    // Of one that it may know of the answer is another.
    #expect(try asker.raw(method, #"{"id":"\#(open.id)"\#(more)}"#) != answers[0])
  }
}
