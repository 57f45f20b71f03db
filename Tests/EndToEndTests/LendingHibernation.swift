import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

extension EndToEnd.Lending {
  @Test("a guest that hibernates while it lends comes back and lends the buffers of other drivers again")
  func hibernated() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let disk = directory.appending("disk")
    try Data().write(to: URL(filePath: disk.string))
    #expect(unsafe disk.withPlatformString { unsafe truncate($0, 400 << 20) } == 0)
    func boot(hasAgent: Bool) throws -> LendingGuest {
      try LendingGuest(.imports, memory: "256M", disk: disk, hasAgent: hasAgent)
    }
    let place = "cat /sys/class/block/vda/dev >/sys/power/resume"

    let first = try boot(hasAgent: true)
    try first.guest.shell("mkswap /dev/vda && swapon /dev/vda && echo shutdown >/sys/power/disk && \(place)")
    let (heap, _) = try first.lend("heap", Self.parts[2], seed: 4, as: "heap")
    let (card, _) = try first.lend("card", Self.parts[2], seed: 5, as: "card")
    let watcher = try first.startWatcher()
    let importer = try first.startImporter(of: heap)
    // Its answer comes from the next machine, if at all.
    _ = try? first.guest.shell("echo disk >/sys/power/state; echo back $? >/run/back")
    try expectCutOff([importer])
    for id in [heap, card] {
      try watcher.expect(
        oneOf: ["deviceReset", "resourceGone", "sessionEnded"].map { "revoked \(id) \($0)" })
    }
    first.guest.waitForEnd()

    let second = try boot(hasAgent: false)
    _ = try? second.guest.shell(place, within: .seconds(10))
    // The guest loses what is sent to it meanwhile.
    try waitUntil("the guest is back") {
      (try? second.guest.shell("cat /run/back", within: .seconds(10))) == "back 0\n"
    }
    // The agent sees that nobody knows its session, and begins another one.
    try second.waitForBuffers(1)
    let buffers = try second.agentList().buffers
    let lent = try #require(buffers.first { $0.state == "lent" })
    #expect(lent.buffer != heap)
    let again = try second.startImporter(of: lent.buffer)
    #expect(try again.tell("read 0 16") == hexadecimal(Self.parts[2].bytes(seed: 4).prefix(16)))
    #expect(try again.tell("release") == "done")
    for name in ["heap", "card"] { try second.drop(name) }
    try waitUntil("nothing is pinned") { liveUdmabufs() == 0 }
  }
}
