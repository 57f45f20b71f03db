import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension EndToEnd.Lending {
  /// One buffer is lent, one is imported too, and one is on its way back while its importer takes its time.
  struct Scene {
    let lender: LendingGuest
    let lent, imported, returning: String
    var ids: [String] { [lent, imported, returning] }
    let watcher: LendingGuest.Watcher
    /// Of the second and the third one.
    let importers: [Conversation]
    var guest: RunningGuest { lender.guest }

    init() throws {
      let lender = try LendingGuest(.imports)
      self.lender = lender
      let ids = try zip(["heap", "card", "udmabuf"], ["lent", "imported", "returning"]).map {
        exporter, name in
        try lender.lend(exporter, parts[2], seed: 7, as: name).id
      }
      (lent, imported, returning) = (ids[0], ids[1], ids[2])
      watcher = try lender.startWatcher()
      for id in ids { try watcher.expect("lent \(id)") }
      importers = try ids[1...].map { try lender.startImporter(of: $0) }
      for importer in importers { #expect(importer.greeting == "imported 123 4567 lent") }
      #expect(
        try guest.shell("hold w as user udmabridge-guest watch --socket /run/agent/lender").contains("ready"))
      try guest.shell(
        "(as user udmabridge-guest return --socket /run/agent/lender --patience 3600000 \(returning) >/run/return.out 2>&1 &)"
      )
      try watcher.expect("returning \(returning)")
    }

    func expectRevoked(_ reasons: String...) throws {
      for id in ids { try watcher.expect(oneOf: reasons.map { "revoked \(id) \($0)" }) }
    }

    /// The lender of the third one is told that it has it back.
    func expectReturned() throws {
      try watcher.expect("returned \(returning)")
      try waitUntil("its lender is told") {
        try guest.shell("cat /run/return.out") == "returned, importers cut off: 0\n"
      }
    }

    /// The guest lends and draws as at first.
    func expectAllWell() throws {
      let (id, _) = try lender.lend("card", parts[2], seed: 9, as: "again")
      let importer = try lender.startImporter(of: id)
      #expect(try importer.tell("read 0 16") == hexadecimal(parts[2].bytes(seed: 9).prefix(16)))
      #expect(try importer.tell("release") == "done")
      try lender.drop("again")
      try guest.shell("draw many 3 64x64 </dev/null")
    }
  }

  enum Victim: String, CaseIterable, Sendable { case lender, agent, helper, qemu, importer, importers }

  @Test(
    "whoever is killed while buffers are lent, the others hear of it, and nothing stays pinned",
    arguments: Victim.allCases)
  func killed(_ victim: Victim) throws {
    let scene = try Scene()
    let (lender, guest) = (scene.lender, scene.guest)
    switch victim {
    case .lender:
      // With it the program that it has started, or that has started it.
      try guest.shell("killall -9 buffer")
      for id in scene.ids { try scene.watcher.expect("returned \(id)") }
      try expectCutOff(scene.importers)
      try waitUntil("the lender's agent has nothing") { try lender.agentList().buffers.isEmpty }
      try scene.expectAllWell()
    case .agent:
      // It has not read what has come.
      try guest.shell("kill -STOP \(LendingGuest.agentPID)")
      for _ in 0..<5 { #expect(try lender.startImporter(of: scene.lent).tell("release") == "done") }
      try lender.killAgent()
      // And it was cut off in the middle of a line.
      try guest.shell(#"printf "{\"execute\":\"le" >\#(LendingGuest.port)"#)
      try lender.startAgent()
      try scene.expectRevoked("sessionEnded", "resourceGone")
      try expectCutOff(scene.importers)
      #expect(try lender.agentList().buffers.isEmpty)
      try scene.expectAllWell()
    case .helper:
      try guest.whileNobodyLooks {
        let helper = try #require(guest.helperPID)
        kill(helper, SIGKILL)
        try scene.watcher.expect("closed")
        try expectCutOff(scene.importers)
        try waitUntil("the lenders hear of it") {
          try guest.shell("cat /run/w.out").contains(#""event":"disconnected""#)
        }
        let before = try lender.agentTime()
        sleep(5)
        #expect(try lender.agentTime() == before, "the agent does nothing while the helper is away")
      }
    case .qemu:
      kill(try #require(guest.qemuPID), SIGKILL)
      try scene.expectRevoked("sessionEnded", "deviceReset")
      try scene.watcher.expect("end")
      try expectCutOff(scene.importers)
    case .importer:
      scene.importers[1].kill()
      try scene.expectReturned()
      #expect(try scene.importers[0].tell("read 0 1") == hexadecimal(Self.parts[2].bytes(seed: 7).prefix(1)))
      try waitUntil("one has another") {
        try lender.agentList().buffers.map { "\($0.buffer) \($0.importers)" }.sorted()
          == ["\(scene.lent) 0", "\(scene.imported) 1"].sorted()
      }
    case .importers:
      for importer in scene.importers { importer.kill() }
      try scene.expectReturned()
      try waitUntil("nobody has the others") {
        try lender.agentList().buffers.map { "\($0.buffer) \($0.importers)" }.sorted()
          == ["\(scene.lent) 0", "\(scene.imported) 0"].sorted()
      }
      for name in ["lent", "imported", "returning"] { try lender.drop(name) }
      for id in [scene.lent, scene.imported] { try scene.watcher.expect("returned \(id)") }
      try scene.expectAllWell()
    }
    if [.lender, .importers].contains(victim) {
      try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
    }
    guest.end()
    if victim == .importer { scene.importers[0].kill() }
    try waitUntil("nothing is left") { liveUdmabufs() == 0 }
  }

  enum Upset: String, CaseIterable, Sendable {
    case panic, reset, reboot, cardUnbound, portUnbound, stopped
  }

  @Test(
    "after a panic, a reset, an unbound driver or a stop all hear of it, and the guest lends again",
    arguments: Upset.allCases)
  func upset(_ upset: Upset) throws {
    let scene = try Scene()
    let (lender, guest) = (scene.lender, scene.guest)
    // Else QEMU ends.
    try guest.monitor("set-action", ["reboot": "reset"])
    switch upset {
    case .panic, .reset, .reboot:
      switch upset {
      case .panic: try guest.shell("(usleep 200000; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
      case .reboot: try guest.shell("(usleep 200000; reboot -f) >/dev/null 2>&1 &")
      default: try guest.monitor("system_reset")
      }
      try scene.expectRevoked("deviceReset")
      try expectCutOff(scene.importers)
      try waitUntil("the guest has booted anew") {
        (try? guest.shell("ls /run/w.out 2>/dev/null || echo new", within: .seconds(10))) == "new\n"
      }
      try guest.shell("load vgem")
      try lender.startAgent()
    case .cardUnbound:
      try guest.shell("ls /sys/bus/virtio/drivers/virtio_gpu | grep virtio >/run/card")
      try guest.shell("cat /run/card >/sys/bus/virtio/drivers/virtio_gpu/unbind")
      // To the host this is a driver that has stopped, as with the guest's processors, until it starts anew.
      #expect(
        try scene.importers[0].tell("read 0 1") == hexadecimal(Self.parts[2].bytes(seed: 7).prefix(1)))
      try guest.shell("cat /run/card >/sys/bus/virtio/drivers/virtio_gpu/bind; grant")
      try scene.expectRevoked("deviceReset")
      try expectCutOff(scene.importers)
      try lender.waitForAgent()
    case .portUnbound:
      try guest.shell(
        "basename $(readlink -f /sys/class/virtio-ports/$(basename \(LendingGuest.port))/device) >/run/ports"
      )
      try guest.shell("cat /run/ports >/sys/bus/virtio/drivers/virtio_console/unbind")
      // The host knows nothing of it, and nobody loses anything.
      for importer in scene.importers {
        #expect(try importer.tell("read 0 1") == hexadecimal(Self.parts[2].bytes(seed: 7).prefix(1)))
      }
      try guest.shell("cat /run/ports >/sys/bus/virtio/drivers/virtio_console/bind")
      try guest.shell("until [ -e \(LendingGuest.port) ]; do usleep 50000; done; grant")
      // The agent's next session.
      try scene.expectRevoked("sessionEnded", "resourceGone")
      try expectCutOff(scene.importers)
      try lender.waitForAgent()
    case .stopped:
      // A return goes on without the guest, which hears of it later.
      try guest.monitor("stop")
      for importer in scene.importers {
        #expect(try importer.tell("read 0 1") == hexadecimal(Self.parts[2].bytes(seed: 7).prefix(1)))
      }
      let another = try lender.startImporter(of: scene.lent)
      #expect(another.greeting == "imported 123 4567 lent")
      #expect(try scene.importers[1].tell("release") == "done")
      try scene.watcher.expect("returned \(scene.returning)")
      try guest.monitor("cont")
      try scene.expectReturned()
      #expect(try another.tell("release") == "done")
      #expect(try scene.importers[0].tell("release") == "done")
    }
    // What lenders still have of other drivers was lent anew by then, or is.
    if [.cardUnbound, .portUnbound, .stopped].contains(upset) {
      for name in ["lent", "imported", "returning"] { try lender.drop(name) }
    }
    try scene.expectAllWell()
    try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
    guest.end()
    try waitUntil("nothing is left") { liveUdmabufs() == 0 }
  }

  @Test("importers that keep a hundred buffers do not cost the guest a second for each")
  func crowd() throws {
    let lender = try LendingGuest(.imports, memory: "1G", helperOptions: ["--max-imports", "256"])
    let guest = lender.guest
    try guest.shell(
      "for number in $(seq 100); do (as user udmabridge-guest lend --socket /run/agent/lender --size 4097 >/dev/null 2>&1 &); done"
    )
    try lender.waitForBuffers(100)
    // Each imports an eighth of them, so that each buffer has two.
    let script = """
      import importlib.machinery, importlib.util, sys
      sys.argv, (path, control, number) = [""], sys.argv[1:]
      loader = importlib.machinery.SourceFileLoader("importer", path)
      importer = importlib.util.module_from_spec(importlib.util.spec_from_loader("importer", loader))
      loader.exec_module(importer)
      buffers = importer.Buffers(control)
      ids = [buffer["id"] for buffer in buffers.call("List")[0]["buffers"]]
      kept = [buffers.call("Import", id=id)[1][0] for id in ids[int(number) % 8::8]]
      print(len(kept), flush=True)
      sys.stdin.read()
      """
    let importers = try (0..<16).map { number in
      try Conversation(
        "/usr/bin/python3",
        [
          "-c", script, repository.appending("Tests/EndToEndTests/importer").string, lender.control,
          "\(number)",
        ])
    }
    #expect(importers.reduce(0) { $0 + (Int($1.greeting) ?? 0) } == 200)
    // The guest's driver takes back one after the other, and waits for each.
    let times = try guest.shell(
      "cut -d' ' -f1 /proc/uptime; pid=\(LendingGuest.agentPID); kill -9 $pid; draw many 3 64x64 </dev/null >/dev/null; while kill -0 $pid 2>/dev/null; do usleep 50000; done; cut -d' ' -f1 /proc/uptime"
    ).split(separator: "\n").compactMap { Double($0) }
    try #require(times.count == 2)
    print(
      "lending: with 100 buffers that are kept the guest draws again, and has all back, after \(times[1] - times[0]) s"
    )
    // A second for each would be a hundred.
    #expect(times[1] - times[0] < 30)
    // The lenders have their dma-bufs in the guest.
    try guest.shell("killall udmabridge-guest; true")
    try waitUntil("the guest has all of them back") { try guest.statistics().pinnedBytes == 0 }
    #expect(liveUdmabufs() == 100, "they keep them")
    for importer in importers { importer.kill() }
    try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
  }
}
