import Buffers
import Fixtures
import Glibc
import Lending
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf
import Varlink

@testable import LendingService

/// What other processes get of what a guest lends, and how long they have it.
@Suite struct ImportTests {
  private let rig: LendingRig

  init() throws { rig = try LendingRig() }

  private var imports: Int { rig.registry.statistics.imports }

  @Test("the served definition is the one in docs")
  func definition() throws {
    let text = try readText(repository.appending("docs/io.udmabridge.Buffers.varlink"))
    #expect(buffersDescription == text)
  }

  @Test("List has the facts of each lent buffer, the oldest first")
  func list() throws {
    let asker = try rig.connect()
    #expect(try asker.ask("List", as: BuffersReply.self).buffers.isEmpty)
    let one = try rig.lend()
    let two = try rig.lend(offset: 0, size: 1, use: .fill)
    try rig.takeBack(two, after: .seconds(60))
    let buffers = try asker.ask("List", as: BuffersReply.self).buffers
    #expect(buffers.map(\.id) == [one.id, two.id])
    #expect(buffers.map(\.state) == [.lent, .lent] && buffers.map(\.use) == [.read, .fill])
    #expect(buffers.map(\.offset) == [100, 0] && buffers.map(\.size) == [5000, 1])
    #expect(buffers.map(\.users) == [0, 0] && buffers[0].returns == nil)
    #expect((1...60_000).contains(try #require(buffers[1].returns)))
    #expect(buffers[0].age >= 0 && buffers[0].access == nil)
  }

  @Test("an import has the lender's own dma-buf, the place in it, and a token")
  func pages() throws {
    let values = ["camera": "front"]
    let lent = try rig.lend(metadata: BufferMetadata(values: values))
    #expect(lent.pages.dmabuf?.isShared == false)
    let asker = try rig.connect()
    let holding = try Holding(asker, lent, forWriting: true)
    #expect(holding.reply.offset == 100 && holding.reply.size == 5000)
    #expect(holding.reply.fileDescriptor == 0 && holding.reply.token == 1)
    #expect(holding.reply.metadata.values == values && holding.reply.buffer.users == 1)
    #expect(try holding.dmabuf?.status().inode == lent.pages.dmabuf?.inode)
    // So that the fences of its devices are looked at later.
    #expect(lent.pages.dmabuf?.isShared == true)
    #expect(imports == 1 && !holding.isCutOff)
    let importers = try asker.ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self).importers
    #expect(importers?.map(\.forWriting) == [true] && importers?.map(\.process) == [77])
  }

  /// Where the lent bytes begin, how many they are, and in what pages they lie.
  @Test(
    "Query tells in which pages the lent bytes lie, and the other facts of the buffer",
    arguments: [
      (100, 5000, 2, 100, 1004), (0, 1, 1, 0, 1), (4095, 1, 1, 4095, 1), (4095, 2, 2, 4095, 1),
      (0, 4096, 1, 0, 4096), (4096, 8192, 2, 0, 4096), (4097, 12286, 3, 1, 4095), (5000, 10, 1, 904, 10),
    ] as [(UInt64, UInt64, Int, Int, Int)])
  func query(_ offset: UInt64, _ size: UInt64, _ pages: Int, _ first: Int, _ last: Int) throws {
    let image = ImageMetadata(
      width: 4, height: 2, fourcc: 0x3432_5258, stride: 16, modifier: -1, timestamp: 9)
    let lent = try rig.lend(
      offset: offset, size: size, use: .fill, metadata: BufferMetadata(image: image))
    let asker = try rig.connect()
    let reply = try asker.ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self)
    #expect(reply.pages == pages && reply.firstOffset == first && reply.lastLength == last)
    #expect(reply.items == 2 && reply.device == 1 && reply.resource == Int(lent.place.resource))
    #expect(reply.metadata.image == image && reply.filling == nil && reply.importers == [])
    var facts = try #require(try asker.ask("List", as: BuffersReply.self).buffers.first)
    facts.age = reply.buffer.age
    #expect(reply.buffer == facts)
  }

  // MARK: How an import ends

  @Test("an import lasts until the last copy of its token closes, in whatever process")
  func copies() throws {
    let lent = try rig.lend()
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    let copy = try #require(try holding.token?.duplicate().relinquish())
    let user = try Child("/bin/sleep", ["1000"], descriptors: [3: copy])
    holding.token = nil
    try rig.settle()
    #expect(imports == 1)
    close(copy)
    try rig.settle()
    #expect(imports == 1)
    user.signal(SIGKILL)
    user.wait()
    try rig.waitUntil("the import ends with its user") { imports == 0 }
    #expect(try asker.fail("Release", lent) == "NotImported")
  }

  @Test("an import outlives the connection on which it was made")
  func connectionEnds() throws {
    let lent = try rig.lend()
    var holding: Holding?
    do { holding = try Holding(try rig.connect(), lent) }
    try rig.waitUntil("the connection is over") { rig.server.connectionCount == 0 }
    #expect(imports == 1 && holding?.isCutOff == false)
    try rig.takeBack(lent, patience: .seconds(60))
    #expect(
      try rig.connect().ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self).buffer.state == .returning
    )
    holding = nil
    try rig.waitUntil("the buffer is returned") { rig.registry.statistics.returned == 1 }
    #expect(imports == 0)
  }

  @Test("Release ends the newest import of this connection, and its token says so")
  func release() throws {
    let lent = try rig.lend()
    let (asker, other) = (try rig.connect(), try rig.connect())
    let (first, second) = (try Holding(asker, lent), try Holding(asker, lent))
    let third = try Holding(other, lent)
    #expect(imports == 3)
    try asker.tell("Release", lent)
    #expect(imports == 2 && second.isCutOff && !first.isCutOff && !third.isCutOff)
    try asker.tell("Release", lent)
    #expect(imports == 1 && first.isCutOff && !third.isCutOff)
    #expect(try asker.fail("Release", lent) == "NotImported")
    #expect(imports == 1)
  }

  @Test("an importer that is late is cut off, and keeps its connection and its other imports")
  func cutOff() throws {
    let (lent, other) = (try rig.lend(), try rig.lend())
    let asker = try rig.connect()
    let (holding, stays) = (try Holding(asker, lent), try Holding(asker, other))
    try rig.takeBack(lent, patience: .seconds(5))
    try rig.pass(.seconds(4))
    #expect(!holding.isCutOff && imports == 2)
    #expect(try asker.fail("Import", lent) == "IsReturning")
    try rig.pass(.seconds(2))
    #expect(holding.isCutOff && !stays.isCutOff && imports == 1)
    #expect(rig.registry.statistics.cutOff == 1)
    #expect(try asker.fail("Release", lent) == "NoSuchBuffer")
    try asker.tell("Release", other)
  }

  @Test("a revoked buffer is unknown at once, and its importers are cut off a second later")
  func revoked() throws {
    let lent = try rig.lend(use: .fill)
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    rig.revoke(lent)
    for method in ["Query", "Import", "EndAccess", "Fill"] {
      #expect(try asker.fail(method, lent) == "NoSuchBuffer")
    }
    #expect(!holding.isCutOff && imports == 1)
    try rig.pass(Registry.revocationPatience)
    #expect(holding.isCutOff && imports == 0)
    #expect(try asker.fail("Release", lent) == "NoSuchBuffer")
  }

  @Test("an importer can release a revoked buffer")
  func releaseRevoked() throws {
    let lent = try rig.lend()
    let asker = try rig.connect()
    let holding = try Holding(asker, lent)
    rig.revoke(lent)
    try asker.tell("Release", lent)
    #expect(holding.isCutOff && imports == 0 && lent.pages.borrowers.isEmpty)
    #expect(rig.registry.statistics.cutOff == 0)
  }

  @Test("imports whose answers nobody reads end with their connection")
  func unread() throws {
    let lent = try rig.lend(metadata: BufferMetadata(values: ["a": String(repeating: "x", count: 4000)]))
    do {
      let asker = try rig.connect()
      // More than a socket takes: the last one that was begun waits here, with its descriptors.
      for _ in 0..<120 { try asker.send("Import", #"{"id":"\#(lent.id)"}"#) }
      #expect((1..<120).contains(imports))
    }
    try rig.waitUntil("they are over") { imports == 0 }
  }

  // MARK: Limits

  @Test("imports are limited in all, for all users but root, and for each of these")
  func tooMany() throws {
    var limits = LendingLimits()
    limits.imports = 8
    let rig = try LendingRig(limits)
    let lent = try rig.lend()
    // Users other than root and the helper's own have six of the eight, and each of them three.
    let (a, b, c) = (try rig.connect(as: 4001), try rig.connect(as: 4002), try rig.connect(as: 4003))
    var holdings = try (0..<3).map { _ in try Holding(a, lent) }
    #expect(try a.fail("Import", lent) == "TooManyImports 3")
    holdings += try (0..<3).map { _ in try Holding(b, lent) }
    #expect(try c.fail("Import", lent) == "TooManyImports 6")
    let root = try rig.connect()
    holdings += try (0..<2).map { _ in try Holding(root, lent) }
    #expect(try root.fail("Import", lent) == "TooManyImports 8")
    #expect(try c.fail("Import", lent) == "TooManyImports 8")
    #expect(rig.registry.statistics.imports == 8)
    holdings.removeFirst()
    try rig.waitUntil("a place is free") { rig.registry.statistics.imports == 7 }
    holdings.append(try Holding(c, lent))
    #expect(rig.registry.statistics.imports == 8)
  }
}
