import Buffers
import Fixtures
import Lending
import LendingProtocol
import Linux
import SystemPackage
import Testing

@testable import Port

/// What the guest's agent hears of memory that the host offers.
@Suite struct PortOfferTests {
  private let rig: PortRig

  init() throws { rig = try PortRig() }

  private func offer(_ metadata: BufferMetadata = BufferMetadata()) throws -> Offer {
    let memfd = try Memfd.create(name: "offer", size: systemPageSize, seals: .shrink)
    let maker = try OfferMaker(udmabuf: .failure(.noSuchFileOrDirectory), copied: nil)
    let fd = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    return try rig.offers.add(maker.make(rig.offers.prepare(metadata), of: fd, uses: 1), metadata, by: nil)
  }

  private func offered(_ offer: Offer, _ metadata: String = "{}") -> String {
    #"{"event":"offered","data":{"offer":\#(offer.id),"device":1,"size":4096,"writable":true,"metadata":\#(metadata)}}"#
  }

  private func withdrawn(_ offer: Offer) -> String { #"{"event":"withdrawn","data":{"offer":\#(offer.id)}}"# }

  @Test("after its hello an agent hears of the offers that there are, and then of each change")
  func events() throws {
    let first = try offer(BufferMetadata(values: ["name": "camera"]))
    let agent = try rig.connect()
    #expect(
      try agent.ask(PortAgent.hello)
        == [PortAgent.welcome, offered(first, #"{"values":{"name":"camera"}}"#)])
    let second = try offer()
    #expect(try agent.lines() == [offered(second)])
    second.memory.beginUse()
    #expect(try agent.lines().isEmpty, "it knows what it has")
    rig.offers.withdraw(second, patience: .seconds(3600))
    let lines = try agent.lines()
    let told = try Reply(#require(lines.first))
    #expect(lines.count == 1 && told.number("offer") == Int(second.id))
    #expect((3_500_000...3_600_000).contains(told.number("patience") ?? 0))
    second.memory.endUse()
    #expect(try agent.lines() == [withdrawn(second)])
    rig.offers.withdraw(first, patience: .zero)
    #expect(try agent.lines() == [withdrawn(first)])
  }

  @Test("an agent hears of the offers anew after each hello, and of none before it")
  func nextAgent() throws {
    let there = try offer()
    let silent = try rig.connect()
    #expect(try silent.lines().isEmpty)
    #expect(try silent.ask(PortAgent.hello).last == offered(there))
    #expect(try silent.ask(PortAgent.hello) == [PortAgent.welcome, offered(there)])
  }
}
