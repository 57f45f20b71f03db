import Buffers
import Fixtures
import LendingProtocol
import Linux
import SystemPackage
import Testing

@testable import Lending

/// What a guest is offered, and what listeners are told of it.
@Suite struct OfferTableTests {
  private let device = FakeOfferDevice()
  private let table: OfferTable
  private let time = Clock()

  private final class Clock { var now = Instant.now }

  init() {
    var limits = OfferLimits()
    limits.offers = 3
    table = OfferTable(device, number: 1, limits: limits, clock: { [time] in time.now })
  }

  private func offer(_ values: [String: String] = [:]) throws -> Offer {
    let memfd = try Memfd.create(name: "offer", size: systemPageSize, seals: .shrink)
    let maker = try OfferMaker(udmabuf: .failure(.noSuchFileOrDirectory), copied: nil)
    let metadata = BufferMetadata(values: values)
    let fd = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    return try table.add(maker.make(table.prepare(metadata), of: fd, uses: 8), metadata, by: nil)
  }

  private func all(_ feed: OfferFeed) -> [String] {
    var told: [String] = []
    while let (news, offer) = feed.next() { told.append("\(news) \(offer.id - OfferTable.firstID)") }
    return told
  }

  @Test("a listener is told what there is, then each change once, and nothing of what came and went")
  func feed() throws {
    let first = try offer()
    let feed = OfferFeed(tellsUses: true)
    var news = 0
    feed.whenNews = { news += 1 }
    table.add(feed)
    #expect(news == 1 && all(feed) == ["offered 0"])
    first.memory.beginUse()
    first.memory.beginUse()
    #expect(news == 2 && all(feed) == ["used 0"])
    let second = try offer()
    table.withdraw(second, patience: .zero)
    #expect(all(feed).isEmpty, "it came and went")
    table.withdraw(first, patience: .seconds(1))
    first.memory.endUse()
    #expect(all(feed) == ["withdrawing 0", "used 0"])
    first.memory.endUse()
    #expect(all(feed) == ["withdrawn 0"] && table.all.isEmpty)
    table.remove(feed)
    _ = try offer()
    #expect(all(feed).isEmpty)
  }

  @Test("a listener that does not want uses hears of none")
  func withoutUses() throws {
    let feed = OfferFeed(tellsUses: false)
    table.add(feed)
    let offer = try offer()
    offer.memory.beginUse()
    #expect(all(feed) == ["offered 0"])
    offer.memory.endUse()
    #expect(all(feed).isEmpty)
  }

  @Test("the table cuts off each withdrawn offer at its deadline, and then has none")
  func deadlines() throws {
    let offers = try (0..<2).map { _ in try offer() }
    for (index, offer) in offers.enumerated() {
      offer.memory.beginUse()
      table.withdraw(offer, patience: .seconds(Int64(5 - index)))
    }
    device.isSlow = true
    #expect(table.deadline == time.now + .seconds(4))
    time.now = time.now + .seconds(4)
    table.expire()
    #expect(device.cut == [offers[1].id] && table.deadline == time.now + .seconds(1))
    time.now = time.now + .seconds(1)
    table.expire()
    #expect(device.cut.count == 2 && table.deadline == nil && table.all.count == 2, "the front end is at it")
    for offer in offers { offer.memory.letGo() }
    #expect(table.all.isEmpty)
  }

  @Test("an offer with too much metadata, or one too many, is refused by name")
  func limits() throws {
    let long = BufferMetadata(values: ["a": String(repeating: "b", count: 4096)])
    #expect(throws: OfferError.metadataTooLong(4097, limit: 4096)) { try table.prepare(long) }
    for _ in 0..<3 { _ = try offer() }
    #expect(throws: OfferError.tooManyOffers(limit: 3)) { try table.prepare(BufferMetadata()) }
  }

  @Test("an offer of the helper's options has no owner, and its number is not given again")
  func fromOptions() throws {
    let memfd = try Memfd.create(name: "offer", size: systemPageSize, seals: .shrink)
    let maker = try OfferMaker(udmabuf: .failure(.noSuchFileOrDirectory), copied: nil)
    let fd = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    table.take(try maker.make(7, of: fd, uses: 1))
    #expect(table[7]?.owner == nil && table.all.map(\.id) == [7])
    table.withdraw(try #require(table[7]), patience: .zero)
    #expect(table[7] == nil)
    // The options may name any number, those that are next among them.
    let other = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    table.take(try maker.make(OfferTable.firstID, of: other, uses: 1))
    #expect(try offer().id == OfferTable.firstID + 1)
  }
}
