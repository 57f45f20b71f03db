import Fixtures
import Foundation
import Glibc
import KMS
import Lending
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import Buffers
@testable import LendingService

/// Memory of the host that processes offer to the guest.
@Suite struct OfferTests {
  private let rig: LendingRig
  private let memfd: Memfd

  init() throws {
    rig = try LendingRig()
    memfd = try Memfd.create(name: "offered", size: 2 * systemPageSize, seals: [.shrink, .seal])
  }

  private func offer(
    _ asker: Asker, _ parameters: String = "{}", _ memory: Memfd? = nil, more: [CInt] = []
  ) throws -> OfferReply {
    try (memory ?? memfd).withDescriptor { fd in
      try asker.ask("Offer", parameters, passing: [fd.withRaw { $0 }] + more)
    }
  }

  private func watch(_ asker: Asker) throws { try asker.send("WatchOffers", flags: #","more":true"#) }

  private func told(_ watcher: Asker) throws -> [OffersEvent] { try watcher.events(OffersEvent.self) }

  @Test("the device, the caller and a watcher see each step of an offer's life")
  func life() throws {
    let (asker, watcher) = (try rig.connect(), try rig.connect())
    try watch(watcher)
    let reply = try offer(asker, #"{"metadata":{"values":{"name":"camera"}},"uses":2}"#)
    #expect(reply == OfferReply(id: 1 << 32, size: 2 * Int(systemPageSize)))
    let memory = try #require(rig.sharing.offers[1 << 32])
    #expect(memory.isWritable && memory.limit == 2)
    var facts = OfferFacts(
      id: reply.id, state: .offered, size: reply.size, writable: true, uses: 2, used: 0, patience: nil,
      metadata: BufferMetadata(values: ["name": "camera"]))
    #expect(try told(watcher) == [OffersEvent(.offered, facts)])
    #expect(try asker.ask("ListOffers", as: OffersReply.self) == OffersReply(offers: [facts]))
    memory.beginUse()
    facts.used = 1
    #expect(try told(watcher) == [OffersEvent(.used, facts)])

    try asker.tell("Withdraw", #"{"id":\#(reply.id),"patience":5000}"#)
    let event = try #require(try told(watcher).first)
    #expect(event.event == .withdrawing && event.offer?.state == .withdrawing)
    #expect((4000...5000).contains(event.offer?.patience ?? 0) && rig.sharing.cut.isEmpty)
    try rig.pass(.seconds(4))
    #expect(try rig.sharing.cut.isEmpty && told(watcher).isEmpty)
    try rig.pass(.seconds(1))
    #expect(rig.sharing.cut == [memory.id] && memory.isOver)
    #expect(try told(watcher).map(\.event) == [.withdrawn])
    #expect(try asker.ask("ListOffers", as: OffersReply.self).offers.isEmpty)
    #expect(try asker.fail("Withdraw", #"{"id":\#(reply.id)}"#) == "NoSuchOffer")
    #expect(try offer(asker).id == reply.id + 1, "no number comes again")
    rig.interface.end()
    #expect(try told(watcher).map(\.event) == [.offered, .end])
  }

  @Test("a guest that lets go in time is not cut off")
  func letGo() throws {
    let asker = try rig.connect()
    let id = try offer(asker).id
    let memory = try #require(rig.sharing.offers[UInt64(id)])
    memory.beginUse()
    try asker.tell("Withdraw", #"{"id":\#(id)}"#)
    memory.endUse()
    #expect(memory.isOver)
    try rig.pass(.seconds(2))
    #expect(rig.sharing.cut.isEmpty)
  }

  @Test("an offer ends with its connection, and its token closes when the front end is done")
  func connectionEnds() throws {
    var reading: FD?
    var token: FD? = try makePipe { reading = consume $0 }
    var asker: Asker? = try rig.connect()
    let number = try #require(token?.withRaw { $0 })
    let id = try offer(#require(asker), #"{"token":1}"#, more: [number]).id
    token = nil
    rig.sharing.isSlow = true
    let memory = try #require(rig.sharing.offers[UInt64(id)])
    memory.beginUse()
    asker = nil
    try rig.waitUntil("it is cut off") { !rig.sharing.cut.isEmpty }
    #expect(!memory.isOver)
    let error = #expect(throws: Errno.self) { _ = try reading?.read(upTo: 1) }
    #expect(error == .wouldBlock)
    memory.letGo()
    #expect(memory.isOver)
    try rig.waitUntil("nobody has the token") { (try? reading?.read(upTo: 1)) == [] }
  }

  @Test("a second withdrawal cannot put off the end of the first")
  func sooner() throws {
    let asker = try rig.connect()
    let id = try offer(asker).id
    let memory = try #require(rig.sharing.offers[UInt64(id)])
    memory.beginUse()
    try asker.tell("Withdraw", #"{"id":\#(id),"patience":1000}"#)
    try asker.tell("Withdraw", #"{"id":\#(id),"patience":3600000}"#)
    try rig.pass(.seconds(1))
    #expect(memory.isOver)
  }

  @Test("users see and withdraw their own offers alone, within their share, and root sees all")
  func users() throws {
    let (one, other, root) = (try rig.connect(as: 4001), try rig.connect(as: 4002), try rig.connect())
    let id = try offer(one).id
    #expect(try other.ask("ListOffers", as: OffersReply.self).offers.isEmpty)
    #expect(try other.fail("Withdraw", #"{"id":\#(id)}"#) == "NoSuchOffer")
    #expect(try root.ask("ListOffers", as: OffersReply.self).offers.map(\.id) == [id])
    // Of 16, others than root have 12 together, and each half of them.
    for _ in 1..<6 { _ = try offer(one) }
    #expect(try fail(one) == "TooManyOffers 6")
    for _ in 0..<6 { _ = try offer(other) }
    for _ in 0..<4 { _ = try offer(root) }
    #expect(try fail(root) == "TooManyOffers 16")
    try root.tell("Withdraw", #"{"id":\#(id)}"#)
    _ = try offer(one)
  }

  private func fail(_ asker: Asker, _ parameters: String = "{}", _ memory: Memfd? = nil) throws -> String {
    try (memory ?? memfd).withDescriptor { fd in
      try asker.fail("Offer", parameters, passing: [fd.withRaw { $0 }])
    }
  }

  @Test("each kind of file that a guest may not have is refused with the reason")
  func kinds() throws {
    let asker = try rig.connect()
    let size = systemPageSize
    func made(_ seals: Seals, _ size: UInt64 = systemPageSize, _ pages: PageKind = .system) throws -> Memfd {
      try Memfd.create(name: "kind", size: size, seals: seals, pages: pages)
    }
    let readOnly = try memfd.withDescriptor { fd throws(Errno) in
      try Memfd(adopting: fd.reopen(writable: false))
    }
    let file = FilePath("/proc/self/exe")
    for (memory, why) in [
      (try made([]), "can become shorter"), (try made([.shrink, .write]), "cannot be written"),
      (try made([.shrink, .futureWrite]), "cannot be written"), (readOnly, "cannot be written"),
      (try made(.shrink, size + 1), "whole pages"), (try made(.shrink, 0), "whole pages"),
      (try made(.shrink, 2 << 20, .huge(2 << 20)), "has pages of 2097152 bytes"),
      (try Memfd(adopting: .open(file, writable: false)), "neither a memfd nor a dma-buf"),
    ] {
      let answer = try fail(asker, "{}", memory)
      #expect(answer.hasPrefix("CannotOffer ") && answer.contains(why), "\(why): \(answer)")
    }
    #expect(try fail(asker, "{}", made(.shrink, 65 * size)) == "TooLarge \(64 * size)")
    #expect(rig.sharing.offers.isEmpty)
  }

  @Test(
    "a dma-buf of udmabuf is taken, and one of the card is refused with its driver's name",
    .enabled(if: TestHost.isActive, "needs dma-bufs"))
  func dmabufs() throws {
    let asker = try rig.connect()
    let made = try UdmabufDevice().create(MemfdRange(memfd: memfd, offset: 0, length: 2 * systemPageSize))
    let id = try made.withDescriptor { fd in
      try asker.ask("Offer", as: OfferReply.self, passing: [fd.withRaw { $0 }])
    }.id
    #expect(rig.sharing.offers[UInt64(id)]?.buffer?.dmabuf?.inode == made.inode)
    let (card, _) = try KMSCard(KMSTarget("/dev/dri/card0")).share(width: 64, height: 64)
    let answer = try card.withDescriptor { fd in try asker.fail("Offer", "{}", passing: [fd.withRaw { $0 }]) }
    #expect(answer.hasPrefix("CannotOffer it is a dma-buf of "), "\(answer)")
  }

  @Test(
    "a wrong parameter of a method is refused by its name",
    arguments: [
      ("Offer", "{}", "InvalidParameter fileDescriptor"),
      ("Offer", #"{"fileDescriptor":1}"#, "InvalidParameter fileDescriptor"),
      ("Offer", #"{"fileDescriptor":8}"#, "InvalidParameter fileDescriptor"),
      ("Offer", #"{"fileDescriptor":-1}"#, "InvalidParameter fileDescriptor"),
      ("Offer", #"{"uses":0}"#, "InvalidParameter uses"),
      ("Offer", #"{"uses":225}"#, "InvalidParameter uses"),
      ("Offer", #"{"token":8}"#, "InvalidParameter token"),
      ("Offer", #"{"size":1}"#, "InvalidParameter size"),
      ("Offer", #"{"metadata":{"image":{}}}"#, "InvalidParameter width"),
      ("Withdraw", "{}", "InvalidParameter id"), ("Withdraw", #"{"id":"x"}"#, "InvalidParameter id"),
      ("Withdraw", #"{"id":-1}"#, "InvalidParameter id"), ("Withdraw", #"{"id":4294967296}"#, "NoSuchOffer"),
      ("Withdraw", #"{"id":1,"patience":-1}"#, "InvalidParameter patience"),
      ("Withdraw", #"{"id":1,"patience":3600001}"#, "InvalidParameter patience"),
      ("ListOffers", #"{"id":1}"#, "InvalidParameter id"), ("WatchOffers", "{}", "ExpectedMore"),
    ])
  func badInput(_ method: String, _ parameters: String, _ answer: String) throws {
    #expect(try rig.connect().fail(method, parameters) == answer)
  }

  @Test("a descriptor that no parameter names is closed")
  func tooMany() throws {
    let asker = try rig.connect()
    var reading: FD?
    var spare: FD? = try makePipe { reading = consume $0 }
    let number = try #require(spare?.withRaw { $0 })
    _ = try offer(asker, more: [number])
    spare = nil
    try rig.waitUntil("it is closed") { (try? reading?.read(upTo: 1)) == [] }
  }

  @Test("without a device for offers each method answers that there is none")
  func none() throws {
    let rig = try LendingRig(isSharing: false)
    let asker = try rig.connect()
    for method in ["Offer", "Withdraw", "ListOffers", "WatchOffers"] {
      #expect(try asker.fail(method, "{}") == "NoSharedMemory")
    }
  }
}
