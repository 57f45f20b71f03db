import Lending
import LendingProtocol
import Linux
import TestSupport
import Testing

@testable import LendingService

/// What importers say that they do with a buffer, and what its lender hears of it.
@Suite struct FillTests {
  private let rig: LendingRig
  private let lender: LendingFeed

  init() throws {
    rig = try LendingRig()
    lender = LendingFeed(.lender(session: rig.session))
    rig.registry.add(lender)
  }

  private func heard() -> [LendingNews] {
    var news: [LendingNews] = []
    while let event = lender.next() { news.append(event.news) }
    return news
  }

  @Test("a buffer can be filled twice, and its facts tell the last fill and their number")
  func fills() throws {
    let lent = try rig.lend(use: .fill)
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    #expect(heard() == [.importers] && holding.reply.buffer.fills == 0)
    #expect(try asker.fail("Filled", #"{"id":"\#(lent.id)","bytesUsed":1}"#) == "NotFilling")
    try asker.tell("Fill", lent)
    // Once more begins anew.
    try asker.tell("Fill", lent)
    #expect(
      try asker.ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self).importers?.map(\.filler) == [true]
    )
    #expect(heard().isEmpty)
    try asker.tell(
      "Filled", #"{"id":"\#(lent.id)","bytesUsed":5000,"timestamp":-3,"metadata":{"values":{"a":"b"}}}"#)
    #expect(heard() == [.filled])
    #expect(try asker.fail("Filled", #"{"id":"\#(lent.id)","bytesUsed":1}"#) == "NotFilling")
    let query = try asker.ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self)
    #expect(query.filling?.bytesUsed == 5000 && query.filling?.timestamp == -3)
    #expect(query.filling?.metadata?.values == ["a": "b"] && query.buffer.fills == 1)
    // The lender's own are as they were.
    #expect(query.metadata == BufferMetadata())
    try asker.tell("Fill", lent)
    try asker.tell("Filled", #"{"id":"\#(lent.id)","bytesUsed":0}"#)
    #expect(try asker.ask("List", as: BuffersReply.self).buffers.map(\.fills) == [2])
  }

  @Test("one importer fills a buffer at a time, if the buffer was lent for that")
  func oneFiller() throws {
    let (lent, read) = (try rig.lend(use: .fill), try rig.lend(use: .write))
    let (one, two) = (try rig.connect(), try rig.connect())
    let holdings = [try Holding(one, lent), try Holding(two, lent), try Holding(two, read)]
    try one.tell("Fill", lent)
    #expect(try two.fail("Fill", lent) == "FilledByAnother")
    #expect(try two.fail("Filled", #"{"id":"\#(lent.id)","bytesUsed":1}"#) == "NotFilling")
    #expect(try two.fail("Fill", read) == "NotForFilling")
    try one.tell("Filled", #"{"id":"\#(lent.id)","bytesUsed":1}"#)
    try two.tell("Fill", lent)
    #expect(holdings.count == 3)
  }

  enum End: CaseIterable { case release, token, connection, cutOff }

  @Test(
    "a fill ends when its importer goes or is cut off, and the lender hears of it", arguments: End.allCases)
  func aborted(_ end: End) throws {
    let lent = try rig.lend(use: .fill)
    var asker: Asker? = try rig.connect()
    let holding = try Holding(asker!, lent)
    try asker!.tell("Fill", lent)
    try asker!.tell("BeginAccess", #"{"id":"\#(lent.id)","mode":"write"}"#)
    #expect(heard() == [.importers, .importerAccessBegun])
    switch end {
    case .release: try asker!.tell("Release", lent)
    case .token: holding.token = nil
    case .connection: asker = nil
    case .cutOff:
      try rig.takeBack(lent)
      try rig.pass(.seconds(2))
    }
    try rig.waitUntil("the lender hears of it") { !lender.isEmpty }
    switch end {
    case .release, .token: #expect(heard() == [.importers, .importerAccessEnded, .fillAborted])
    case .connection: #expect(heard() == [.importerAccessEnded, .fillAborted])
    case .cutOff: #expect(heard() == [.over])
    }
    if end == .cutOff { return }
    // Another one may now.
    let other = try rig.connect()
    let again = try Holding(other, lent)
    try other.tell("Fill", lent)
    #expect(!again.isCutOff)
  }

  @Test("the lender hears of an importer's accesses by the CPU")
  func access() throws {
    let lent = try rig.lend()
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    _ = heard()
    for mode in AccessMode.allCases {
      try asker.tell("BeginAccess", #"{"id":"\#(lent.id)","mode":"\#(mode.rawValue)"}"#)
      #expect(heard() == [.importerAccessBegun])
      let importers = try asker.ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self).importers
      #expect(importers?.map(\.access) == [mode])
    }
    try asker.tell("EndAccess", lent)
    #expect(heard() == [.importerAccessEnded])
    // Nothing has begun.
    try asker.tell("EndAccess", lent)
    #expect(heard().isEmpty && !holding.isCutOff)
  }
}
