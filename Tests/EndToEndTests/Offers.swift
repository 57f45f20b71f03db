import Foundation
import Glibc
import GuestAgent
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd {
  /// Memory of the host that comes into a running guest and is taken back.
  @Suite
  struct Offers {
    private typealias Part = LendingGuest.Part
    private static let tool = Lending.tool
    private static let size = 64 << 10
    /// What a guest's program does, by the agent.
    private static let agent = "--socket /run/agent/lender"

    /// A process of the host that offers memory, which the test has too.
    private final class Offerer {
      let child: Child
      private let output: PipeEnd
      let id: String

      init(_ memory: borrowing FD, to lender: LendingGuest, _ options: [String] = []) throws {
        (child, output) = try memory.withRaw { raw in
          try startReading(
            Offers.tool, ["buffers", "offer", "--control", lender.control, "--fd", "9"] + options,
            withErrors: true,
            descriptors: [9: raw])
        }
        id = try output.readLine() ?? "nothing"
        guard Int(id) != nil else { throw TroubleInTest(id) }
      }

      deinit {
        child.signal(SIGTERM)
        child.wait()
      }
    }

    enum Kind: String, CaseIterable, Sendable { case memfd, udmabuf, heap }

    /// Makes memory of that kind.
    private func make(_ kind: Kind) throws -> FD {
      switch kind {
      case .heap:
        return try allocate(UInt64(Self.size), fromHeap: "system")
      case .memfd, .udmabuf:
        let memfd = try Memfd.create(name: "offered", size: UInt64(Self.size), seals: [.shrink, .grow])
        guard kind == .udmabuf else {
          return try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
        }
        let dmabuf = try UdmabufDevice().create(
          MemfdRange(memfd: memfd, offset: 0, length: UInt64(Self.size)))
        return try dmabuf.withDescriptor { fd throws(Errno) in try fd.duplicate() }
      }
    }

    private func withdraw(_ id: String, from lender: LendingGuest, patience: Int) throws {
      let (status, output) = try run(
        Self.tool, ["buffers", "withdraw", "--control", lender.control, "--patience", "\(patience)", id],
        withErrors: true)
      #expect(status == 0, "\(output)")
    }

    @Test(
      "memory of the host is the guest's: both see what the other one writes; taken back in use, zeros are in its place",
      arguments: [LendingGuest.Machine.sharing, .sharing612])
    func received(_ machine: LendingGuest.Machine) throws {
      let lender = try LendingGuest(machine)
      let guest = lender.guest
      for kind in Kind.allCases {
        let memory = try make(kind)
        let host = try Mapping(memory, offset: 0, length: Self.size, writable: true)
        let offerer = try Offerer(memory, to: lender, ["--metadata", #"{"values":{"name":"m"}}"#])
        try waitUntil("the agent knows of it") {
          try guest.shell("udmabridge-guest offers \(Self.agent)")
            == "\(offerer.id) \(Self.size) bytes, name=m\n"
        }
        #expect(
          try guest.shell(
            "hold r as user udmabridge-guest receive \(Self.agent) --metadata name=m -- buffer fd:{} \(Self.size) 5"
          )
            == "filled\n")
        let part = Part(offset: 0, size: Self.size)
        #expect(host.bytes(at: 0, count: Self.size) == part.bytes(seed: 5), "\(kind)")
        host.store(UInt64(0x0102_0304_0506_0708), at: 4096)
        try lender.tell("r", "read 4096 8", "0807060504030201")

        // It is used, and taken away all the same.
        try withdraw(offerer.id, from: lender, patience: 100)
        try lender.tell("r", "read 4096 16", String(repeating: "0", count: 32))
        try lender.tell("r", "write 0 a5", "written")
        #expect(
          host.bytes(at: 0, count: 4) == Array(part.bytes(seed: 5).prefix(4)), "what it writes reaches nobody"
        )
        #expect(try guest.shell("udmabridge-guest offers \(Self.agent)").isEmpty)
        #expect(throws: TroubleInTest.self) {
          try guest.shell("as user udmabridge-guest receive \(Self.agent) \(offerer.id)")
        }
        try lender.drop("r")
      }
      #expect(try guest.statistics().protocolErrors.isEmpty)
      guest.end()
      try waitUntil("nothing is left") { liveUdmabufs() == 0 }
    }

    @Test("two hundred offers in a row, and as many as there may be at once")
    func many() throws {
      // Each process that offers has two connections: one that the offer lives by, and one that watches it.
      let lender = try LendingGuest(.sharing, helperOptions: ["--control-connections", "140"])
      let guest = lender.guest
      let memory = try make(.memfd)
      for round in 0..<200 {
        let offerer = try Offerer(memory, to: lender)
        if round % 20 == 0 {
          try waitUntil("the agent knows of it") {
            try guest.shell("udmabridge-guest offers \(Self.agent)").hasPrefix(offerer.id)
          }
          #expect(
            try guest.shell(
              "hold r as user udmabridge-guest receive \(Self.agent) \(offerer.id) -- buffer fd:{} \(Self.size) 5"
            )
              == "filled\n")
          try lender.drop("r")
        }
      }
      var offerers: [Offerer] = []
      for _ in 0..<64 { offerers.append(try Offerer(memory, to: lender)) }
      let error = #expect(throws: TroubleInTest.self) { _ = try Offerer(memory, to: lender) }
      #expect("\(error!)".contains("TooManyOffers"), "\(error!)")
      try waitUntil("the agent knows of all") {
        try guest.shell("udmabridge-guest offers \(Self.agent) | wc -l") == "64\n"
      }
      offerers = []
      try waitUntil("they are gone") { try guest.shell("udmabridge-guest offers \(Self.agent)").isEmpty }
    }

    enum Victim: CaseIterable, Sendable { case offerer, receiver, agent, qemu }

    @Test(
      "killed while memory of the host is in use: the guest finds zeros, and nothing stays",
      arguments: Victim.allCases)
    func killed(_ victim: Victim) throws {
      let lender = try LendingGuest(.sharing)
      let guest = lender.guest
      let memory = try make(.udmabuf)
      let offerer = try Offerer(memory, to: lender)
      try waitUntil("the agent knows of it") {
        try guest.shell("udmabridge-guest offers \(Self.agent)").hasPrefix(offerer.id)
      }
      #expect(
        try guest.shell(
          "hold r as user udmabridge-guest receive \(Self.agent) \(offerer.id) -- buffer fd:{} \(Self.size) 5"
        )
          == "filled\n")
      func used() throws -> String {
        try run(Self.tool, ["buffers", "offers", "--json", "--control", lender.control]).output
      }
      switch victim {
      case .offerer:
        offerer.child.signal(SIGKILL)
        try waitUntil("it is taken away") {
          try guest.shell("tell r read 0 8") == String(repeating: "0", count: 16) + "\n"
        }
        #expect(try used().contains(#""offers":[]"#))
        try lender.drop("r")
      case .receiver:
        try guest.shell("killall -9 buffer")
        try waitUntil("the guest has nothing of it") { try used().contains(#""used":0"#) }
      case .agent:
        try lender.killAgent()
        try lender.tell("r", "read 0 4", hexadecimal(Part(offset: 0, size: 4).bytes(seed: 5)))
        try lender.startAgent()
        try waitUntil("the next agent knows of it") {
          try guest.shell("udmabridge-guest offers \(Self.agent)").hasPrefix(offerer.id)
        }
        try lender.drop("r")
      case .qemu:
        kill(try #require(guest.qemuPID), SIGKILL)
        offerer.child.wait()
      }
      guest.end()
    }
  }
}
