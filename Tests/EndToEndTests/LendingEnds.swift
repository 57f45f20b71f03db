import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd.Lending {
  /// Each is told, and lets go.
  func expectCutOff(_ importers: [Conversation]) throws {
    for importer in importers { #expect(try importer.tell("watch") == "cut off") }
  }

  @Test("an importer that keeps a dma-buf after its cut-off keeps the pages, and nobody waits for it")
  func keeps() throws {
    let lender = try LendingGuest(.imports)
    let (id, _) = try lender.lend("heap", Self.parts[2], seed: 7, as: "b")
    let importer = try lender.startImporter(of: id, keeps: true)
    #expect(try lender.ask("return --patience 100 \(id)") == "returned, importers cut off: 1\n")
    #expect(try importer.tell("watch") == "cut off")
    // It has a dma-buf as before.
    #expect(try importer.tell("read 0 16") == hexadecimal(Self.parts[2].bytes(seed: 7).prefix(16)))
    #expect(liveUdmabufs() == 1)
    try lender.drop("b")
    try lender.guest.shell("draw many 3 64x64 </dev/null")
    #expect(liveUdmabufs() == 1)
    importer.kill()
    try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
  }

  @Test("the agent needs less than 4 MiB for a hundred buffers, and no time while nothing happens")
  func cost() throws {
    let lender = try LendingGuest(.imports, memory: "2G")
    let guest = lender.guest
    try guest.shell(
      "for number in $(seq 100); do (as user udmabridge-guest lend --socket /run/agent/lender --heap system --size 4097 >/dev/null 2>&1 &); done"
    )
    try lender.waitForBuffers(100)
    let memory = try lender.agentMemory()
    print("lending: the agent has \(memory >> 10) KiB of private memory with 100 buffers")
    #expect(memory < 4 << 20)
    let before = try lender.agentTime()
    sleep(5)
    #expect(try lender.agentTime() == before)
    try guest.shell("killall udmabridge-guest; true")
    try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
  }

  /// QEMU's own card stands for a helper that never comes.
  @Test("an agent whose helper never comes uses no time")
  func alone() throws {
    let guest = try RunningGuest(
      resolution: "1024x768", kms: nil,
      options: ["--card", "virtio-gpu-pci", "--agent", "--port", "/run/nobody-listens-here"])
    try guest.shell(
      "until grep -qs io.udmabridge /sys/class/virtio-ports/*/name; do usleep 50000; done; grant")
    try guest.shell("(as agent udmabridge-guest serve --socket /run/agent/lender >/run/agent.log 2>&1 &)")
    try waitUntil("it serves") {
      (try? guest.shell("udmabridge-guest list --socket /run/agent/lender")) != nil
    }
    let time = "cut -d' ' -f14,15 /proc/\(LendingGuest.agentPID)/stat"
    let before = try guest.shell(time)
    sleep(5)
    #expect(try guest.shell(time) == before)
    #expect(
      try guest.shell("udmabridge-guest list --json --socket /run/agent/lender").contains(
        #""connected":false"#))
  }

  @Test("without a device of the project pinned pages of a guest become a dma-buf of the host")
  func pages() throws {
    let guest = try RunningGuest(
      resolution: "1024x768", kms: nil, options: ["--card", "virtio-gpu-pci", "--agent"])
    let part = LendingGuest.Part(offset: 0, size: 1 << 20)
    try guest.shell(
      "truncate -s \(part.size) /tmp/content; buffer fd:5 \(part.size) 3 5<>/tmp/content </dev/null")
    let first = try guest.shell("hold p udmabridge-guest pages --file /tmp/content")
    #expect(first.hasPrefix("0x"))
    try waitUntil("all pages are listed") { try guest.shell("tail -n 1 /run/p.out") == "end\n" }
    let list = try guest.shell("cat /run/p.out")
    var input: UnixSocket?
    var started: (child: Child, output: PipeEnd)?
    try UnixSocket.pair { near, far in
      started = try far.fd.withRaw { raw in
        try startReading(
          Self.tool, ["create", "--guest", "\(try #require(guest.qemuPID))", "-", "--hold"], withErrors: true,
          descriptors: [0: raw])
      }
      input = consume near
    }
    let (child, output) = try #require(started)
    unsafe try input?.fd.write(Array(list.utf8).span.bytes)
    var number: CInt?
    try waitUntil("the tool holds a dma-buf") {
      number = (try? RunningProcess(child.pid).openFiles().first(where: \.isDMABuf))?.number
      return number != nil || !child.isRunning
    }
    let dmabuf = try DMABuf(adopting: RunningProcess(child.pid).descriptor(try #require(number)))
    let mapping = try dmabuf.map(writable: true)
    #expect(mapping.bytes(at: 0, count: part.size) == part.bytes(seed: 3))
    // Its memfd, as the guest sees it.
    let memfd = try guest.shell(
      "ls -l /proc/$(pidof udmabridge-guest)/fd | sed -n 's/.* \\([0-9]*\\) -> .memfd.*/\\1/p'"
    )
    .dropLast()
    let inGuest = "hold b buffer fd:5 \(part.size) 4 5<>/proc/$(pidof udmabridge-guest)/fd/\(memfd)"
    #expect(try guest.shell(inGuest) == "filled\n")
    #expect(mapping.bytes(at: 0, count: part.size) == part.bytes(seed: 4))
    mapping.store(UInt8(0xa5), at: part.size - 1)
    #expect(try guest.shell("tell b read \(part.size - 1) 1") == "a5\n")
    // The end of the list's source is the end of the dma-buf.
    input = nil
    #expect(child.wait() == 1)
    #expect(try output.readToEnd() != "")
    try guest.shell("tell b quit; drop b; killall udmabridge-guest; true")
  }
}
