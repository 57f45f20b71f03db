import Buffers
import Fixtures
import LendingProtocol
import Linux
import Testing
import Udmabuf

@testable import Lending

/// What listeners are told of lent buffers.
@Suite struct FeedTests {
  private func watch(_ scene: Scene, by caller: LendingCaller = Scene.trusted) -> LendingFeed {
    let feed = LendingFeed(.importer(caller))
    scene.registry.add(feed)
    return feed
  }

  private func lenderFeed(_ scene: Scene) -> LendingFeed {
    let feed = LendingFeed(.lender(session: scene.session))
    scene.registry.add(feed)
    return feed
  }

  @Test("a listener hears of what is there when it comes, the oldest first") func theBeginning() throws {
    let scene = try Scene()
    let buffers = try (0..<20).map { _ in try scene.lend() }
    let feed = watch(scene)
    #expect(feed.all() == buffers.map { Told(.lent, $0.id) })
    let late = try scene.lend()
    #expect(feed.all() == [Told(.lent, late.id)] && feed.isEmpty)
  }

  @Test("importers and the lender each hear of the steps of a buffer's life that concern them") func aLife()
    throws
  {
    let scene = try Scene()
    let (importers, lender) = (watch(scene), lenderFeed(scene))
    let buffer = try scene.lend(use: .fill)
    #expect(importers.all() == [Told(.lent, buffer.id)] && lender.all().isEmpty)
    try scene.registry.setMetadata(BufferMetadata(values: ["a": "b"]), of: buffer.id, by: buffer.owner)
    #expect(importers.all() == [Told(.metadata, buffer.id)] && lender.all().isEmpty)
    try scene.registry.beginAccess(.write, to: buffer.id, by: buffer.owner)
    #expect(importers.all() == [Told(.accessBegun, buffer.id)] && buffer.access == .write)
    try scene.registry.endAccess(to: buffer.id, by: buffer.owner)
    #expect(importers.all() == [Told(.accessEnded, buffer.id)] && buffer.access == nil)
    let user = try scene.takeImport(buffer)
    #expect(importers.all().isEmpty && lender.all() == [Told(.importers, buffer.id)])
    scene.registry.beginAccess(.read, by: user)
    #expect(importers.all().isEmpty && lender.all() == [Told(.importerAccessBegun, buffer.id)])
    scene.registry.endAccess(by: user)
    #expect(importers.all().isEmpty && lender.all() == [Told(.importerAccessEnded, buffer.id)])
    try scene.registry.beginFill(by: user)
    try scene.registry.endFill(Fill(bytesUsed: 9), by: user)
    #expect(importers.all() == [Told(.filled, buffer.id)] && lender.all() == [Told(.filled, buffer.id)])
    try scene.takeBack(buffer)
    #expect(importers.all() == [Told(.returning, buffer.id)] && lender.all().isEmpty)
    scene.registry.release(user)
    #expect(importers.all() == [Told(.over, buffer.id)])
    #expect(lender.all() == [Told(.over, buffer.id)], "how many have it says nothing of one that is over")
    #expect(buffer.state == .returned(cutOff: 0, isRead: false))
  }

  struct Hidden: CustomTestStringConvertible, Sendable {
    let audiences: [String]
    let caller: LendingCaller
    let sees: Bool
    let testDescription: String

    init(_ testDescription: String, _ audiences: [String], _ caller: LendingCaller, sees: Bool) {
      (self.testDescription, self.audiences, self.caller, self.sees) = (
        testDescription, audiences, caller, sees
      )
    }
  }

  static let hidden = [
    Hidden("lent to all, a stranger", [], Scene.stranger, sees: true),
    Hidden("lent to a user, that one", ["video"], Scene.viewer, sees: true),
    Hidden("lent to a user, who is in no group of that number", ["video"], Scene.stranger, sees: false),
    Hidden("lent to a group, one of its members", ["sound"], Scene.listener, sees: true),
    Hidden("lent to a group, a user who is not in it", ["sound"], Scene.viewer, sees: false),
    Hidden("lent to two, one of the second", ["video", "sound"], Scene.listener, sees: true),
    Hidden("lent to two, one of neither", ["video", "sound"], Scene.stranger, sees: false),
    Hidden("lent to others, one who is trusted", ["sound"], Scene.trusted, sees: true),
  ]

  @Test(
    "callers who may import a buffer hear of it, list it and find it, and others do not", arguments: hidden)
  func whoSees(_ item: Hidden) throws {
    let scene = try Scene()
    let feed = watch(scene, by: item.caller)
    let buffer = try scene.lend(to: item.audiences)
    let late = watch(scene, by: item.caller)
    #expect(scene.registry.list(for: item.caller).map(\.id) == (item.sees ? [buffer.id] : []))
    if item.sees {
      #expect(try scene.registry.find(buffer.id, for: item.caller) === buffer)
    } else {
      for id in [buffer.id, .random()] {
        #expect(throws: LendingError.noSuchBuffer) { try scene.registry.find(id, for: item.caller) }
        #expect(throws: LendingError.noSuchBuffer) {
          try scene.registry.importBuffer(id, for: item.caller, forWriting: false)
        }
      }
    }
    let user = try scene.takeImport(buffer)
    for feed in [feed, late] { #expect(feed.all().map(\.news) == (item.sees ? [.lent] : [])) }
    try scene.takeBack(buffer)
    scene.registry.release(user)
    for feed in [feed, late] { #expect(feed.all().map(\.news) == (item.sees ? [.over] : [])) }
  }

  @Test("a lender hears of the buffers of its own session") func sessions() throws {
    let scene = try Scene()
    let old = lenderFeed(scene)
    let buffer = try scene.lend()
    scene.hello()
    let new = lenderFeed(scene)
    _ = try scene.takeImport(scene.lend())
    #expect(old.all() == [Told(.over, buffer.id)] && new.all().map(\.news) == [.importers])
  }

  @Test("a listener hears nothing of a buffer that came and went before it read") func cameAndWent() throws {
    let scene = try Scene()
    let feed = watch(scene)
    let buffer = try scene.lend(use: .fill)
    let user = try scene.takeImport(buffer)
    try scene.registry.beginFill(by: user)
    try scene.registry.endFill(Fill(bytesUsed: 1), by: user)
    scene.registry.release(user)
    try scene.takeBack(buffer)
    #expect(feed.isEmpty && feed.all().isEmpty)
  }

  @Test("a listener that knew a buffer hears of its last fill and its end, and of nothing else")
  func theEnd() throws {
    let scene = try Scene()
    let (importers, lender) = (watch(scene), lenderFeed(scene))
    let buffer = try scene.lend(use: .fill)
    #expect(importers.all().count == 1)
    let user = try scene.takeImport(buffer)
    for bytes in 1...3 as ClosedRange<UInt64> {
      try scene.registry.beginFill(by: user)
      try scene.registry.endFill(Fill(bytesUsed: bytes), by: user)
    }
    try scene.registry.beginFill(by: user)
    scene.registry.beginAccess(.write, by: user)
    try scene.registry.beginAccess(.write, to: buffer.id, by: buffer.owner)
    for borrower in try #require(buffer.pages).borrowers { _ = borrower.pagesAreWanted(isReset: false) }
    let expected = [Told(.filled, buffer.id, lost: 2), Told(.over, buffer.id)]
    #expect(importers.all() == expected && lender.all() == expected)
    // Its importer does not know it yet.
    #expect(throws: LendingError.noSuchBuffer) { try scene.registry.endFill(Fill(bytesUsed: 4), by: user) }
    scene.registry.endAccess(by: user)
    scene.registry.release(user)
    #expect(importers.isEmpty && lender.isEmpty, "nothing comes after the end")
  }

  @Test("a fill's event counts the fills that its listener has missed since it came") func lostFills() throws
  {
    let scene = try Scene()
    let buffer = try scene.lend(use: .fill)
    let user = try scene.takeImport(buffer)
    func fill() throws {
      try scene.registry.beginFill(by: user)
      try scene.registry.endFill(Fill(bytesUsed: 1), by: user)
    }
    try fill()
    let (feed, lender) = (watch(scene), lenderFeed(scene))
    for _ in 0..<3 { try fill() }
    #expect(feed.all() == [Told(.lent, buffer.id), Told(.filled, buffer.id, lost: 2)])
    try fill()
    #expect(feed.all() == [Told(.filled, buffer.id)])
    #expect(lender.all().last == Told(.filled, buffer.id, lost: 4))
  }

  @Test("of a begin and an end that a listener has missed, it hears of the later one") func opposites() throws
  {
    let scene = try Scene()
    let (importers, lender) = (watch(scene), lenderFeed(scene))
    let buffer = try scene.lend(use: .fill)
    let user = try scene.takeImport(buffer)
    #expect(importers.all().count == 1 && lender.all().count == 1)
    for _ in 0..<2 {
      try scene.registry.beginAccess(.read, to: buffer.id, by: buffer.owner)
      try scene.registry.endAccess(to: buffer.id, by: buffer.owner)
      scene.registry.beginAccess(.read, by: user)
      scene.registry.endAccess(by: user)
      try scene.takeBack(buffer)
      _ = try scene.registry.lend(
        buffer.request, of: #require(buffer.pages), at: buffer.place, by: buffer.owner)
    }
    #expect(importers.all().map(\.news) == [.lent, .metadata, .accessEnded])
    #expect(lender.all().map(\.news) == [.importerAccessEnded])
    try scene.registry.beginAccess(.read, to: buffer.id, by: buffer.owner)
    scene.registry.beginAccess(.read, by: user)
    try scene.takeBack(buffer)
    #expect(importers.all().map(\.news) == [.accessBegun, .returning])
    #expect(lender.all().map(\.news) == [.importerAccessBegun])
  }

  @Test("the importers' access by the CPU lasts until the last of them has ended it") func accessOfMany()
    throws
  {
    let scene = try Scene()
    let lender = lenderFeed(scene)
    let buffer = try scene.lend()
    let users = try (0..<3).map { _ in try scene.takeImport(buffer) }
    scene.registry.beginAccess(.read, by: users[0])
    #expect(buffer.importerAccess == .read)
    scene.registry.beginAccess(.write, by: users[1])
    #expect(
      buffer.importerAccess == .readWrite && lender.all().map(\.news) == [.importers, .importerAccessBegun])
    scene.registry.endAccess(by: users[1])
    #expect(buffer.importerAccess == .read && lender.isEmpty)
    scene.registry.endAccess(by: users[2])
    #expect(lender.isEmpty, "it had begun none")
    scene.registry.release(users[0])
    #expect(buffer.importerAccess == nil && lender.all().map(\.news) == [.importers, .importerAccessEnded])
    scene.registry.endAccess(by: users[0])
    #expect(lender.isEmpty)
  }

  @Test("a buffer with news at each turn does not hold back the news of another one") func fairness() throws {
    let scene = try Scene()
    let feed = watch(scene)
    let (busy, other) = (try scene.lend(), try scene.lend())
    #expect(feed.all().count == 2)
    func access() throws {
      try scene.registry.setMetadata(BufferMetadata(), of: busy.id, by: busy.owner)
      try scene.registry.beginAccess(.read, to: busy.id, by: busy.owner)
    }
    try access()
    try scene.takeBack(other)
    var told: [Told] = []
    for _ in 0..<3 {
      told.append(try #require(feed.next()).told)
      try access()
    }
    #expect(told.contains(Told(.over, other.id)))
  }

  @Test("a listener is called for its first news, and not for those that follow unread") func calls() throws {
    let scene = try Scene()
    let feed = watch(scene)
    var calls = 0
    feed.whenNews = { calls += 1 }
    let first = try scene.lend()
    let second = try scene.lend()
    #expect(calls == 1)
    try scene.takeBack(first)
    try scene.takeBack(second)
    #expect(calls == 1 && feed.isEmpty)
    _ = try scene.lend()
    #expect(calls == 2)
  }

  // MARK: Memory

  /// What a weak reference shows of what is kept.
  private final class Kept {
    weak var buffer: LentBuffer?
    weak var pages: Buffer?
    weak var dmabuf: DMABuf?
    init(_ lent: LentBuffer) { (buffer, pages, dmabuf) = (lent, lent.pages, lent.pages?.dmabuf) }
    var isKept: Bool { buffer != nil || pages != nil || dmabuf != nil }
  }

  @Test("a listener that never reads keeps nothing, while a guest lends and returns 100000 buffers")
  func neverRead() throws {
    let scene = try Scene()
    let feeds = [watch(scene), watch(scene, by: Scene.viewer), lenderFeed(scene)]
    let lasting = try scene.lend()
    // One of them has heard of what lives on.
    #expect(feeds[0].all().count == 1)
    for round in 0..<1000 {
      var kept: [Kept] = []
      for _ in 0..<100 {
        let buffer = try scene.lend()
        kept.append(Kept(buffer))
        try scene.takeBack(buffer)
      }
      #expect(feeds[2].all().allSatisfy { $0.news == .over })
      try #require(kept.allSatisfy { !$0.isKept }, "round \(round)")
    }
    #expect(scene.registry.statistics.lent == 100_001 && scene.registry.statistics.buffers == 1)
    #expect(feeds[1].all() == [Told(.lent, lasting.id)] && feeds[0].isEmpty)
    for feed in feeds { #expect(feed.footprint <= 200) }
  }

  @Test("a listener that heard of buffers and reads no more keeps their names, and not their pages")
  func readNoMore() throws {
    let scene = try Scene()
    let feed = watch(scene)
    var kept: [Kept] = []
    for _ in 0..<1000 { kept.append(Kept(try scene.lend())) }
    #expect(feed.all().count == 1000)
    for id in kept.compactMap({ $0.buffer?.id }) {
      try scene.registry.takeBack(id, by: scene.lender(), after: .zero, patience: .zero)
    }
    #expect(kept.allSatisfy { $0.buffer != nil && $0.pages == nil && $0.dmabuf == nil })
    for _ in 0..<1000 { try scene.takeBack(scene.lend()) }
    #expect(feed.footprint <= 5000)
    #expect(feed.all().map(\.news) == Array(repeating: .over, count: 1000))
    #expect(kept.allSatisfy { !$0.isKept } && feed.footprint == 0)
  }
}

extension LendingEvent {
  fileprivate var told: Told { Told(news, buffer.id, lost: lost) }
}

extension LendingFeed {
  /// How many entries it keeps, of all kinds.
  fileprivate var footprint: Int {
    Mirror(reflecting: self).children.map { Mirror(reflecting: $0.value) }
      .filter { $0.displayStyle == .dictionary || $0.displayStyle == .collection }
      .reduce(0) { $0 + $1.children.count }
  }
}
