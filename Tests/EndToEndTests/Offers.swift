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
      "host and guest share offered memory, and zeros take its place when it is withdrawn in use",
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

    @Test("after two hundred offers in a row a guest may have 64 at once, and no more")
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

    @Test(
      "a guest's lent frames are on another guest's screen without a copy, and come back when that one has let go"
    )
    func guestToGuest() throws {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
      let drawing = try LendingGuest(.imports)
      let showing = try LendingGuest(.sharing, kms: "auto")
      let size = 1024 * 768 * 4
      let command = "'echo $UDMABRIDGE_BUFFER; exec draw blob fd:{} \(size)'"
      let id = try drawing.guest.shell(
        "hold a as user udmabridge-guest lend \(Self.agent) --size \(size) -- sh -c \(command)"
      ).dropLast()
      #expect(try drawing.guest.shell("next a") == "open\n")
      for (words, answer) in [("create", "created"), ("map", "mapped")] {
        try drawing.tell("a", words, answer)
      }
      // As docs/offers.md has it.
      let offer =
        "\(Self.tool) buffers offer --control \(showing.control) --fd 5 --token $UDMABRIDGE_TOKEN"
      let (between, output) = try startReading(
        Self.tool,
        [
          "buffers", "import", String(id), "--control", drawing.control, "--as-fd", "5", "--", "sh", "-c",
          offer,
        ], withErrors: true)
      let number = try output.readLine() ?? "nothing"
      try #require(Int(number) != nil, "\(number)")
      try waitUntil("the agent knows of it") {
        try showing.guest.shell("udmabridge-guest offers \(Self.agent)").hasPrefix("\(number) ")
      }
      #expect(
        try showing.guest.shell(
          "hold b as user udmabridge-guest receive \(Self.agent) \(number) -- draw blob fd:{} \(size)")
          == "open\n")
      for (words, answer) in [("create", "created"), ("map", "mapped")] {
        try showing.tell("b", words, answer)
      }
      for seed: UInt32 in 9...11 {
        try drawing.tell("a", "show 1024x768 4096 0 \(seed)", "shown")
        try showing.tell("b", "show 1024x768 4096 0 -", "shown")
        try showing.guest.expectLent(.positions(1024, 768, seed: seed))
      }
      for guest in [drawing.guest, showing.guest] {
        let statistics = try guest.settledStatistics()
        #expect(statistics.bytesCopied == 0 && statistics.protocolErrors.isEmpty)
      }

      // Who has lent it wants it back, while the other guest has it on its screen.
      try drawing.guest.shell(
        "(as user udmabridge-guest return \(Self.agent) --patience 3600000 \(id) >/run/returned 2>&1 &)")
      func state() throws -> String? { try drawing.agentList().buffers.first?.state }
      try waitUntil("it is on its way back") { try state() == "returning" }
      let withdrawing = try startReading(
        Self.tool,
        ["buffers", "withdraw", "--control", showing.control, "--patience", "3600000", number],
        withErrors: true)
      try waitUntil("it is on its way back there, too") {
        try run(Self.tool, ["buffers", "offers", "--json", "--control", showing.control]).output.contains(
          #""state":"withdrawing""#)
      }
      try showing.guest.expectLent(.positions(1024, 768, seed: 11))
      #expect(try state() == "returning")
      #expect(try drawing.guest.shell("cat /run/returned").isEmpty)
      for (words, answer) in [("unmap", "unmapped"), ("close", "closed")] {
        try showing.tell("b", words, answer)
      }
      try showing.drop("b")
      #expect(withdrawing.child.wait() == 0)
      #expect(between.wait() == 0)
      try waitUntil("it is back") {
        try drawing.guest.shell("cat /run/returned") == "returned, importers cut off: 0\n"
      }
      for (words, answer) in [("unmap", "unmapped"), ("close", "closed")] {
        try drawing.tell("a", words, answer)
      }
      try drawing.drop("a")
      drawing.guest.end()
      showing.guest.end()
      try waitUntil("nothing is left") { liveUdmabufs() == 0 }
    }

    @Test("a guest whose memory was withdrawn while it was stopped reads zeros by any instruction")
    func stopped() throws {
      let lender = try LendingGuest(.sharing)
      let guest = lender.guest
      let offered = try Offered(.used, to: lender)
      try guest.monitor("stop")
      try offered.beginWithdrawal()
      #expect(guest.qemuPID != nil)
      try guest.monitor("cont")
      #expect(offered.waitForWithdrawal() == 0)
      for how in ["bytes", "movs", "avx"] {
        try lender.tell("r", "drain \(how)", "draining")
        #expect(try guest.shell("next r") == "zero\n", "\(how)")
      }
      try lender.drop("r")
      try offered.expectFree()
      #expect(try guest.statistics().protocolErrors.isEmpty)
    }

    @Test("a guest that is reset, running or stopped, may use an offer again that it had let go of")
    func reset() throws {
      let lender = try LendingGuest(.sharing)
      let guest = lender.guest
      // Else QEMU ends.
      try guest.monitor("set-action", ["reboot": "reset"])
      let offered = try Offered(.used, to: lender)
      for isStopped in [false, true] {
        // QEMU 11.1.3 ends at a reset with memory mapped.
        try lender.drop("r")
        if isStopped { try guest.monitor("stop") }
        try guest.monitor("system_reset")
        if isStopped { try guest.monitor("cont") }
        try waitUntil("the guest has booted anew") {
          (try? guest.shell("ls /run/r.out 2>/dev/null || echo new", within: .seconds(10))) == "new\n"
        }
        try lender.startAgent()
        try offered.use()
        try lender.tell("r", "read 0 4", hexadecimal(Part(offset: 0, size: 4).bytes(seed: 5)))
      }
      try lender.drop("r")
      offered.offerer.child.signal(SIGTERM)
      offered.offerer.child.wait()
      try offered.expectFree()
      #expect(try guest.statistics().protocolErrors.isEmpty)
    }

    @Test("the example offers a decoder's frames, and the guest sees the newest one")
    func example() throws {
      let directory = try makeTemporaryDirectory()
      defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
      let lender = try LendingGuest(.sharing)
      let frames = directory.appending("frames")
      #expect(unsafe frames.withPlatformString { unsafe mkfifo($0, 0o600) } == 0)
      let program = repository.appending("examples/offer.py")
      let (example, output) = try startReading(
        "/bin/sh", ["-c", "exec python3 \(program) \(lender.control) 64 48 m <\(frames)"], withErrors: true)
      var decoder: FD? = try FD.open(frames, writable: true)
      #expect(try output.readLine()?.hasPrefix("offer ") == true)
      try waitUntil("the agent knows of it") {
        try lender.guest.shell("udmabridge-guest offers \(Self.agent)").contains("name=m")
      }
      #expect(
        try lender.guest.shell(
          "hold r as user udmabridge-guest receive \(Self.agent) --metadata name=m -- buffer fd:{} 16384 5")
          == "filled\n")
      for number in 1...3 {
        let frame = Part(offset: 0, size: 64 * 48 * 4).bytes(seed: UInt32(number))
        unsafe try decoder!.write(frame.span.bytes)
        try waitUntil("the guest sees it") {
          try lender.guest.shell("tell r read 0 8") == "0\(number * 2)00000000000000\n"
        }
        try lender.tell("r", "read 4096 4096", hexadecimal(frame[..<4096]))
        try lender.tell("r", "read 12288 4096", hexadecimal(frame[8192...]))
      }
      decoder = nil
      #expect(example.wait() == 0)
      try waitUntil("it is gone") { try lender.guest.shell("udmabridge-guest offers \(Self.agent)").isEmpty }
      try lender.drop("r")
    }

    enum Step: CaseIterable, Sendable { case offered, used, withdrawing }
    enum Victim: Sendable {
      case offerer, receiver, agent, helper, qemu
      static let ofTheGuest = [offerer, receiver, agent]
    }

    /// Memory of the host that is offered, by several processes.
    private final class Offered {
      let memory: Memfd
      let offerer: Offerer
      private let lender: LendingGuest
      /// The guest's program that uses it.
      private let name: String
      private var withdrawal: Child?

      init(_ step: Step, to lender: LendingGuest, name: String = "r") throws {
        (self.lender, self.name) = (lender, name)
        let memory = try Memfd.create(name: "offered", size: UInt64(Offers.size), seals: [.shrink, .grow])
        self.memory = memory
        let fd = try memory.withDescriptor { fd throws(Errno) in try fd.duplicate() }
        let offerer = try Offerer(fd, to: lender)
        self.offerer = offerer
        if step == .offered { try waitUntilAgentKnows() } else { try use() }
        if step == .withdrawing { try beginWithdrawal(patience: 3_600_000) }
      }

      /// A program of the guest maps it, and writes.
      func use() throws {
        try waitUntilAgentKnows()
        #expect(
          try lender.guest.shell(
            "hold \(name) as user udmabridge-guest receive \(Offers.agent) \(offerer.id) -- buffer fd:{} \(Offers.size) 5"
          ) == "filled\n")
      }

      /// Has somebody take it back, and returns when that has begun.
      func beginWithdrawal(patience: Int = 0) throws {
        withdrawal = try startReading(
          Offers.tool,
          ["buffers", "withdraw", "--control", lender.control, "--patience", "\(patience)", offerer.id],
          withErrors: true
        ).child
        try waitUntil("it is on its way back") { try state().contains(#""state":"withdrawing""#) }
      }

      func state() throws -> String {
        try run(Offers.tool, ["buffers", "offers", "--json", "--control", lender.control]).output
      }

      func waitUntilAgentKnows() throws {
        try waitUntil("the agent knows of it") {
          try lender.guest.shell("udmabridge-guest offers \(Offers.agent)").split(separator: "\n")
            .contains { $0.hasPrefix("\(offerer.id) ") }
        }
      }

      /// Nobody maps it for writing any more: only then does the kernel seal it against that.
      func expectFree() throws {
        // F_ADD_SEALS and F_SEAL_WRITE.
        let (addSeals, sealWrite): (CInt, CInt) = (1033, 8)
        try waitUntil("nobody has it mapped") {
          try memory.withDescriptor { fd throws(Errno) in
            fd.withRaw { fcntl($0, addSeals, sealWrite) } == 0
          }
        }
      }

      /// Who takes it back hears that it is, or that nobody answers any more.
      func waitForWithdrawal() -> Int32? { withdrawal?.wait() }
    }

    @Test(
      "whoever is killed at a step of an offer, nobody has its memory mapped at the end"
    )
    func killed() throws {
      let lender = try LendingGuest(.sharing)
      let guest = lender.guest
      for (step, victim) in Step.allCases.flatMap({ step in Victim.ofTheGuest.map { (step, $0) } }) {
        if victim == .receiver, step == .offered { continue }
        let offered = try Offered(step, to: lender)
        switch victim {
        case .offerer:
          offered.offerer.child.signal(SIGKILL)
          offered.offerer.child.wait()
          if step != .offered {
            try waitUntil("it is taken away") {
              try guest.shell("tell r read 0 8") == String(repeating: "0", count: 16) + "\n"
            }
          }
        case .receiver:
          try guest.shell("killall -9 buffer")
          try waitUntil("the guest has nothing of it") {
            let state = try offered.state()
            return state.contains(#""used":0"#) || state.contains(#""offers":[]"#)
          }
          try guest.shell("drop r; true")
        case .agent:
          try lender.killAgent()
          if step != .offered {
            try lender.tell("r", "read 0 4", hexadecimal(Part(offset: 0, size: 4).bytes(seed: 5)))
          }
          try lender.startAgent()
          if step != .withdrawing { try offered.waitUntilAgentKnows() }
        case .helper, .qemu: preconditionFailure("the guest ends with these")
        }
        if victim != .receiver, step != .offered { try lender.drop("r") }
        offered.offerer.child.signal(SIGTERM)
        offered.offerer.child.wait()
        #expect(offered.waitForWithdrawal() ?? 0 == 0)
        try waitUntil("it is over") { try offered.state().contains(#""offers":[]"#) }
        try offered.expectFree()
      }
      #expect(try guest.statistics().protocolErrors.isEmpty)
    }

    @Test(
      "if QEMU or the helper is killed at a step of an offer, nobody has its memory mapped",
      arguments: [Victim.qemu, .helper])
    func killedWithTheGuest(_ victim: Victim) throws {
      let lender = try LendingGuest(.sharing)
      let guest = lender.guest
      let all = try Step.allCases.map { try Offered($0, to: lender, name: "\($0)") }
      kill(try #require(victim == .qemu ? guest.qemuPID : guest.helperPID), SIGKILL)
      guest.waitForEnd()
      for offered in all {
        offered.offerer.child.wait()
        _ = offered.waitForWithdrawal()
        try offered.expectFree()
      }
    }
  }
}
