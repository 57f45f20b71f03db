import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

extension LibvirtSetups {
  /// The newest QEMU where also QEMU's own user may read it.
  private func readableQEMU(_ host: LibvirtHost) throws -> FilePath {
    let place: FilePath = "/var/qemu"
    try host.run(
      "mkdir -m 755 \(place); mount --bind $(readlink -f \(LibvirtHost.newest.removingLastComponent())) \(place)"
    )
    return place.appending("qemu-system-x86_64")
  }

  @Test(
    "a domain's guest lends a buffer through a restart of libvirtd, and nothing is left at its end",
    .enabled(if: TestHost.isActive, "needs KVM and /dev/udmabuf"), arguments: ["root", "libvirt-qemu"])
  func lending(_ user: String) throws {
    // There is no udev, which would give them to that user's group.
    #expect(try run("/bin/sh", ["-c", "chmod 666 /dev/kvm /dev/udmabuf"]).status == 0)
    // libvirt 9.0 gives QEMU an option reconnect, which QEMU 11.1 has no more.
    let host = try LibvirtHost(.stable, user: user, lender: true)
    try host.define("camera", emulator: readableQEMU(host))
    let before = try host.definition("camera")
    let difference = try host.run(
      "udmabridge libvirt enable camera --lend --option audience=viewers=uid:65534")
    #expect(difference.contains("io.udmabridge.lend.0") && difference.contains("vhost-user-test-device-pci"))
    #expect(try host.run("udmabridge libvirt enable camera --lend") == "domain camera needs no change\n")
    let (status, report) = try host.attempt("udmabridge libvirt check camera")
    #expect(status == 0 && report.contains("ok       lending     any buffer"), "\(report)")

    try host.run("virsh start camera")
    let part = LendingGuest.Part(offset: 123, size: 4567)
    try host.startAgent("camera", cards: 2)
    try host.lend("camera", part)
    try host.expectLent("camera", part.bytes(seed: 7))
    try host.restart()
    #expect(try host.guest("camera", "tell b fill 8") == "filled\n")
    try host.expectLent("camera", part.bytes(seed: 8))
    let statistics = try host.run("udmabridge stats --domain camera")
    #expect(statistics.contains(/device\.bytesCopied +0\n/), "\(statistics)")

    try host.run("virsh destroy camera")
    try waitUntil("the helper has ended, and nothing is pinned") {
      host.helpers().isEmpty && liveUdmabufs() == 0
    }
    #expect(try host.run("ls /run/udmabridge") == "")
    try host.run("udmabridge libvirt disable camera")
    #expect(try host.definition("camera") == before)
  }

  @Test(
    "a domain's guest has memory of the host until it is withdrawn, and nothing is left at its end",
    .enabled(if: TestHost.isActive, "needs KVM and /dev/udmabuf"))
  func sharing() throws {
    #expect(try run("/bin/sh", ["-c", "chmod 666 /dev/kvm /dev/udmabuf"]).status == 0)
    let host = try LibvirtHost(.stable, user: "libvirt-qemu", lender: true)
    try host.define("viewer", emulator: readableQEMU(host))
    let before = try host.definition("viewer")
    try host.run("udmabridge libvirt enable viewer --lend --share --option host-memory=64M")
    #expect(
      try host.run("udmabridge libvirt enable viewer --lend --share") == "domain viewer needs no change\n")
    let (status, report) = try host.attempt("udmabridge libvirt check viewer")
    #expect(status == 0 && report.contains("ok       sharing"), "\(report)")

    try host.run("virsh start viewer")
    try host.startAgent("viewer", cards: 3)
    let part = LendingGuest.Part(offset: 0, size: 65536)
    try host.run(
      """
      (udmabridge buffers offer --domain viewer --size \(part.size) -- \
        sh -c 'until [ -e drawn ]; do sleep 0.1; done; cp /proc/self/fd/$0 bytes; mv bytes copied; exec sleep 1000' {} \
        >offer.log 2>&1 & echo $! >offer.pid)
      until udmabridge buffers offers --json --domain viewer | grep '"id":' >offers; do sleep 0.1; done
      """)
    let offers = try host.run("cat offers")
    let number = try #require(offers.firstMatch(of: /"id":([0-9]+)/), "\(offers)").1
    try host.guest(
      "viewer",
      "until udmabridge-guest offers --socket /run/agent/lender | grep -q '^\(number) '; do usleep 50000; done"
    )
    #expect(
      try host.guest(
        "viewer",
        "hold r as user udmabridge-guest receive --socket /run/agent/lender \(number) -- buffer fd:{} \(part.size) 5"
      ) == "filled\n")
    try host.run("touch drawn; until [ -e copied ]; do sleep 0.1; done")
    let copied = try [UInt8](Data(contentsOf: URL(filePath: host.directory.appending("copied").string)))
    #expect(copied == part.bytes(seed: 5))
    try host.run("udmabridge buffers withdraw --domain viewer --patience 100 \(number)")
    #expect(try host.guest("viewer", "tell r read 0 8") == String(repeating: "0", count: 16) + "\n")
    #expect(try host.run("udmabridge buffers offers --json --domain viewer").contains(#""offers":[]"#))

    try host.run("virsh destroy viewer")
    try waitUntil("the helper has ended, and nothing is pinned") {
      host.helpers().isEmpty && liveUdmabufs() == 0
    }
    #expect(try host.run("ls /run/udmabridge") == "")
    try host.run("udmabridge libvirt disable viewer")
    #expect(try host.definition("viewer") == before)
  }

  @Test(
    "after its helper is killed, recover plugs a card in by which buffers are lent again",
    .enabled(if: TestHost.isActive, "needs KVM and /dev/udmabuf"))
  func lendingAgain() throws {
    let host = try LibvirtHost(.stable, lender: true)
    try host.define("camera", emulator: readableQEMU(host))
    try host.run("udmabridge libvirt enable camera --lend; virsh start camera")
    let part = LendingGuest.Part(offset: 123, size: 4567)
    try host.startAgent("camera", cards: 2)
    try host.lend("camera", part)
    try host.expectLent("camera", part.bytes(seed: 7))
    kill(try #require(host.helpers().first), SIGKILL)
    try waitUntil("it is gone") { host.helpers().isEmpty }
    let output = try host.run("udmabridge libvirt recover camera")
    #expect(output.contains("has a card again"), "\(output)")
    try host.guest("camera", "until ls /dev/dri/renderD130; do usleep 50000; done; grant")
    try waitUntil("it is lent again") {
      try host.run("udmabridge buffers list --domain camera").hasPrefix("BUFFER")
    }
    try host.expectLent("camera", part.bytes(seed: 7))
    #expect(try host.guest("camera", "tell b fill 8") == "filled\n")
    try host.expectLent("camera", part.bytes(seed: 8))
    try host.run("virsh destroy camera")
    try waitUntil("nothing is pinned") { host.helpers().isEmpty && liveUdmabufs() == 0 }
    #expect(try host.run("ls /run/udmabridge") == "")
  }

  /// The helper that libvirt starts begins a second later.
  private func delayHelper(_ host: LibvirtHost) throws {
    try host.run(
      """
      cd /usr/local/bin; mv vhost-user-udmabuf ../late
      printf '#!/bin/bash\\nsleep 1; exec -a "$0" /usr/local/late "$@"\\n' >vhost-user-udmabuf; chmod 755 vhost-user-udmabuf
      """)
  }

  @Test(
    "QEMU waits for a helper that is a second late, and connects the port later",
    .enabled(if: TestHost.isActive, "needs KVM and /dev/udmabuf"))
  func lateHelper() throws {
    #expect(try run("/bin/sh", ["-c", "chmod 666 /dev/kvm /dev/udmabuf"]).status == 0)
    let host = try LibvirtHost(user: "libvirt-qemu", lender: true)
    try delayHelper(host)
    // This QEMU has no second card.
    try host.define("early")
    let told = try host.attempt("udmabridge libvirt enable early --lend")
    #expect(told.status == 0 && told.output.contains("lends what its card makes"), "\(told.output)")
    try host.run("virsh start early")
    try host.startAgent("early", cards: 1)
    try host.guest("early", "hold b as user udmabridge-guest lend --socket /run/agent/lender --size 5000")
    try waitUntil("it is lent") { try host.run("udmabridge buffers list --domain early").contains("5000") }
    try host.run("virsh destroy early")
    try waitUntil("nothing is pinned") { host.helpers().isEmpty && liveUdmabufs() == 0 }
  }

  @Test(
    "a late second card fails the domain's start by its path, and the next start succeeds",
    .enabled(if: TestHost.isActive, "needs KVM and /dev/udmabuf"))
  func lateSecondCard() throws {
    #expect(try run("/bin/sh", ["-c", "chmod 666 /dev/kvm /dev/udmabuf"]).status == 0)
    let host = try LibvirtHost(.stable, user: "libvirt-qemu", lender: true)
    try delayHelper(host)
    try host.define("second", emulator: readableQEMU(host))
    try host.run("udmabridge libvirt enable second --lend")
    let refused = try host.attempt("virsh start second")
    #expect(
      refused.status != 0 && refused.output.contains("/run/udmabridge/second/lend"), "\(refused.output)")
    try waitUntil("the helper has ended") { host.helpers().isEmpty }
    // In time.
    try host.run(
      "mv -f /usr/local/late /usr/local/bin/vhost-user-udmabuf; virsh start second; virsh destroy second")
    #expect(try host.run("ls /run/udmabridge") == "")
  }
}

extension LibvirtHost {
  /// Starts the agent of a domain's guest as its own user, and waits until it knows that many cards.
  func startAgent(_ name: String, cards: Int) throws {
    try guest(
      name, "until grep -qs io.udmabridge /sys/class/virtio-ports/*/name; do usleep 50000; done; grant")
    try guest(
      name,
      "(as agent udmabridge-guest serve --socket /run/agent/lender --group 104 >>/run/agent.log 2>&1 &)")
    try waitUntil("the agent is connected and has its cards") {
      let text = try guest(name, "udmabridge-guest list --json --socket /run/agent/lender 2>/dev/null; true")
      let list = try? JSONDecoder().decode(LendingGuest.AgentList.self, from: Data(text.utf8))
      return list?.connected == true && list?.cards == cards
    }
  }

  /// Lends a part of a dma-heap's buffer, whose pattern has the seed 7, as `b`.
  func lend(_ name: String, _ part: LendingGuest.Part) throws {
    try guest(
      name,
      "hold b as user buffer heap \(part.end) 7 -- udmabridge-guest lend --socket /run/agent/lender --offset \(part.offset) --size \(part.size) --fd {}"
    )
    // The id comes behind `filled`.
    try guest(name, "next b")
  }

  /// One buffer is lent, whose bytes these are.
  func expectLent(_ name: String, _ bytes: [UInt8]) throws {
    let json = try run("udmabridge buffers list --domain \(name) --json")
    let id = try #require(json.firstMatch(of: /"id":"([0-9a-f]{32})"/), "\(json)").1
    try run("udmabridge dump --domain \(name) --buffer \(id) --output lent")
    let file = directory.appending("lent")
    #expect(try [UInt8](Data(contentsOf: URL(filePath: file.string))) == bytes)
  }
}
