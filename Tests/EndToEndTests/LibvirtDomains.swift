import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

/// Domains of a real libvirtd: in the test host under KVM with the card, elsewhere emulated and without one.
@Suite(
  .serialized,
  .enabled(if: LibvirtHost.isPossible, "needs root, libvirtd, and what qemu/setup --all fetches"))
struct LibvirtDomains {
  init() throws {
    if TestHost.isActive {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
    }
  }

  /// Options of a domain that is to be shown where there is a card.
  private let shown = "--option resolution=1024x768" + (TestHost.isActive ? " --option kms=auto" : "")

  @Test(
    "a plain domain shows its picture through a restart and a reset, is never saved, and leaves nothing",
    arguments: LibvirtHost.Release.allCases)
  func life(_ release: LibvirtHost.Release) throws {
    let host = try LibvirtHost(release)
    try host.define("plain")
    let before = try host.definition("plain")
    let difference = try host.run("udmabridge libvirt enable plain \(shown)")
    #expect(difference.contains("+     <source type=\"memfd\"/>"), "\(difference)")
    let enabled = try host.definition("plain")
    #expect(try host.run("udmabridge libvirt enable plain") == "domain plain needs no change\n")
    #expect(try host.definition("plain") == enabled)
    let (status, report) = try host.attempt("udmabridge libvirt check plain")
    #expect(status == (TestHost.isActive ? 0 : 1), "\(report)")
    for name in ["memory", "access", "video", "parameters", "graphics", "back end", "hook"] {
      #expect(report.contains("ok       \(name) "), "\(report)")
    }

    try host.run("virsh start plain")
    #expect(host.helpers().count == 1)
    try host.expectPicture("plain")
    let helpers = host.helpers()
    // A running domain is never touched, and its definition may be changed.
    #expect(try host.run("udmabridge libvirt disable plain").contains("at its next start"))
    try host.run("udmabridge libvirt enable plain \(shown)")
    try host.restart()
    #expect(try host.run("virsh domstate plain").hasPrefix("running"))
    #expect(host.helpers() == helpers)
    try host.expectPicture("plain")
    for attempt in ["save plain /var/saved", "managedsave plain", "migrate plain qemu:///system"] {
      let (status, why) = try host.attempt("virsh \(attempt)")
      #expect(status != 0 && why.contains("lacks VHOST_USER_PROTOCOL_F_LOG_SHMFD"), "\(why)")
    }
    try host.run("virsh domdirtyrate-calc plain --seconds 1 --mode dirty-bitmap")
    try waitUntil("it is measured how fast the guest writes") {
      try host.run("virsh domstats --dirtyrate plain").contains("dirtyrate.calc_status=2")
    }
    try host.expectPicture("plain")
    try host.run("virsh reset plain")
    try host.expectPicture("plain")
    #expect(host.helpers() == helpers)

    try host.run("virsh destroy plain")
    try waitUntil("the helper has ended") { host.helpers().isEmpty }
    #expect(try host.run("ls /run/udmabridge") == "")
    try host.run("udmabridge libvirt disable plain")
    #expect(try host.definition("plain") == before)
    try host.run("virsh undefine plain")
    let (again, why) = try host.attempt("udmabridge stats --domain plain")
    #expect(again == 1 && why.contains("does not run"), "\(why)")
  }

  @Test("the hook refuses domains that could not work, with the reason, and no other")
  func refused() throws {
    let host = try LibvirtHost()
    try host.define("plain")
    try host.run("virsh start plain")
    try host.run("virsh destroy plain")
    // Without memory that can be shared.
    try host.define("private")
    try host.run("udmabridge libvirt enable private")
    try host.run("virsh dumpxml private | grep -v \"<source type='memfd'\" | virsh define /dev/stdin")
    let memory = try host.attempt("virsh start private")
    #expect(memory.status != 0 && memory.output.contains("not of a memfd"), "\(memory.output)")
    // With VNC: refused by enable, and by the hook where somebody added it later.
    try host.define("vnc", devices: "<graphics type='vnc' port='-1'/>")
    let enable = try host.attempt("udmabridge libvirt enable vnc")
    #expect(enable.status == 1 && enable.output.contains("--remove-graphics"), "\(enable.output)")
    let before = try host.definition("vnc")
    try host.run("udmabridge libvirt enable vnc --remove-graphics")
    try host.run("virsh start vnc; virsh destroy vnc")
    try host.run(
      "virsh dumpxml vnc | sed \"s|</devices>|<graphics type='vnc' port='-1'/></devices>|\" | virsh define /dev/stdin"
    )
    let vnc = try host.attempt("virsh start vnc")
    #expect(vnc.status != 0 && vnc.output.contains("graphics of type vnc"), "\(vnc.output)")
    #expect(vnc.output.contains("hook"), "\(vnc.output)")
    try host.run("virsh undefine vnc; virsh define vnc.xml; udmabridge libvirt enable vnc --remove-graphics")
    try host.run("udmabridge libvirt disable vnc")
    #expect(
      try host.definition("vnc").filter { !$0.contains("uuid") } == before.filter { !$0.contains("uuid") })
    // A copy.
    try host.run(
      "virsh dumpxml private | sed 's|<name>private|<name>copy|; /<uuid>/d' | virsh define /dev/stdin")
    let copy = try host.attempt("virsh start copy")
    #expect(copy.status != 0 && copy.output.contains("called private"), "\(copy.output)")
    #expect(try host.run("ls /run/udmabridge") == "")
  }

  @Test("after its helper is killed a guest gets another card, twice, and an older QEMU is refused")
  func recover() throws {
    let host = try LibvirtHost()
    try host.define("plain", emulator: LibvirtHost.newest)
    try host.run("udmabridge libvirt enable plain \(shown)")
    let (idle, why) = try host.attempt("udmabridge libvirt recover plain")
    #expect(idle == 1 && why.contains("does not run"), "\(why)")
    try host.run("virsh start plain")
    try host.expectPicture("plain")
    let (running, reason) = try host.attempt("udmabridge libvirt recover plain")
    #expect(running == 1 && reason.contains("process \(host.helpers().first ?? 0), still runs"), "\(reason)")
    for _ in 0..<2 {
      let killed = try #require(host.helpers().first)
      kill(killed, SIGKILL)
      try waitUntil("it is gone") { host.helpers().isEmpty }
      let output = try host.run("udmabridge libvirt recover plain")
      #expect(output.contains("has a card again"), "\(output)")
      #expect(host.helpers().count == 1)
      try waitUntil("the guest has it") {
        try host.guest("plain", "ls /sys/class/drm").contains("card1-")
      }
      try host.expectPicture("plain", card: 1)
    }
    let log = try host.run("cat /var/log/libvirt/qemu/plain.log")
    #expect(log.contains("is tainted: custom-monitor"))
    try host.run("virsh destroy plain")
    try waitUntil("the helper has ended") { host.helpers().isEmpty }
    #expect(try host.run("ls /run/udmabridge") == "")

    try host.define("older")
    try host.run("udmabridge libvirt enable older; virsh start older")
    let killed = try #require(host.helpers().first)
    kill(killed, SIGKILL)
    try waitUntil("it is gone") { host.helpers().isEmpty }
    let older = try host.attempt("udmabridge libvirt recover older")
    #expect(older.status == 1 && older.output.contains("10.1 and later"), "\(older.output)")
  }

  @Test("a domain's memory is read by its name, with the bytes that QEMU has")
  func memory() throws {
    let host = try LibvirtHost()
    try host.define("plain")
    let (idle, why) = try host.attempt("udmabridge ram --domain plain")
    #expect(idle == 1 && why.contains("does not run"), "\(why)")
    try host.run("udmabridge libvirt enable plain; virsh start plain")
    let layout = try host.run("udmabridge ram --domain plain 2>/dev/null")
    #expect(layout.contains(/pc\.ram +memfd.*can be lent/), "\(layout)")
    // The guest waits while both look.
    try host.run("virsh suspend plain")
    try host.run("udmabridge dump --domain plain 0xf0000:64K --output dumped 2>/dev/null")
    try host.run(
      "virsh qemu-monitor-command plain --hmp 'pmemsave 0xf0000 0x10000 \"/var/log/saved\"' && cmp dumped /var/log/saved"
    )
    let bytes = try host.run("od -An -v -tx1 dumped | tr ' ' '\\n' | sort -u | wc -l")
    #expect((Int(bytes.filter(\.isNumber)) ?? 0) > 50, "\(bytes)")
    let (status, output) = try host.attempt(
      "timeout 5 udmabridge create --domain plain 0x100000:1M --hold")
    #expect(output.contains("as tainted"))
    if TestHost.isActive {
      #expect(status == 124 && output.contains("dma-buf, 1 MiB"), "\(output)")
    } else {
      #expect(status == 1 && output.contains("there is no /dev/udmabuf"), "\(output)")
    }
    #expect(try host.attempt("udmabridge ram --domain nobody").output.contains("not found"))
  }

  @Test("the helper's log is in the system's log, and names the domain")
  func log() throws {
    let host = try LibvirtHost()
    try """
    import os, socket
    server = socket.socket(socket.AF_UNIX)
    os.makedirs("/run/systemd/journal", exist_ok=True)
    server.bind("/run/systemd/journal/stdout")
    server.listen()
    with open("system.log", "wb", buffering=0) as file:
        while True:
            stream = server.accept()[0]
            while message := stream.recv(65536):
                if message == b"end": os._exit(0)
                file.write(message)
    """.write(
      toFile: host.directory.appending("log.py").string, atomically: false, encoding: .utf8)
    try host.run("setsid python3 log.py </dev/null >/dev/null 2>&1 & sleep 1")
    try host.define("plain")
    try host.run("udmabridge libvirt enable plain --option log-level=info")
    try host.run("virsh start plain")
    let system = host.directory.appending("system.log")
    try waitUntil("the log is there") {
      (try? readText(system).contains("the guest's frames are offered")) ?? false
    }
    let lines = try readText(system).split(separator: "\n")
    #expect(
      lines.contains {
        $0.hasPrefix(
          "<6>vhost-user-udmabuf: info: domain plain: the guest's frames are offered on /run/udmabridge/plain/control"
        )
      }, "\(lines)")
    // One that cannot start says why there, where libvirt says nothing.
    try host.run("virsh destroy plain; udmabridge libvirt enable plain --option kms=/dev/null")
    #expect(try host.attempt("virsh start plain").status != 0)
    try waitUntil("the reason is there") { try readText(system).contains("/dev/null") }
    try host.run(
      "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/systemd/journal/stdout'); s.send(b'end')\""
    )
  }
}

extension LibvirtHost {
  /// modetest shows its pattern in the guest, and that is what is shown.
  /// - Parameter card: which of the guest's.
  func expectPicture(_ name: String, card: Int = 0) throws {
    let place = try guest(name, "basename $(readlink -f /sys/class/drm/card\(card)/device)").filter {
      !$0.isNewline
    }
    let modetest = "modetest -M virtio_gpu -D pci:\(place)"
    let target = try guest(
      name,
      modetest
        + #" -c -p | awk "/^Connectors/{getline;getline;c=\$1} /^CRTCs/{getline;getline;print c\"@\"\$1}""#
    ).filter { !$0.isNewline }
    try guest(name, "pattern m -D pci:\(place) -s \(target):1024x768@XR24")
    let picture = Picture.smpte(1024, 768)
    var difference: String? = "nothing was compared"
    if TestHost.isActive {
      try? waitUntil("the picture is on the screen") {
        difference = picture.firstDifference(in: try Screenshot.take())
        return difference == nil
      }
      #expect(difference == nil, "screenshot")
      let framebuffer = try #require(try ShownFramebuffer.current(), "the screen is dark")
      #expect(try framebuffer.dmabuf.exporter() == "udmabuf")
      #expect(picture.firstDifference(inXRGB: try framebuffer.bytes(), stride: framebuffer.stride) == nil)
      let statistics = try run("udmabridge stats --domain \(name)")
      #expect(statistics.contains(/device\.bytesCopied +0\n/), "\(statistics)")
    } else {
      try? waitUntil("the picture is there") {
        // There is none until the guest has flushed one.
        guard let pixels = try? snapshot(name) else { return false }
        difference = picture.firstDifference(inRGB: pixels)
        return difference == nil
      }
      #expect(difference == nil, "snapshot")
    }
    try guest(name, "drop m; true")
  }

  /// The pixels of a domain's picture, red, green and blue.
  private func snapshot(_ name: String) throws -> [UInt8] {
    try run(
      """
      udmabridge snapshot --domain \(name) picture.png && \(repository)/Tests/ToolTests/png picture.png | python3 -c '
      import sys, ast
      width, height, rows = sys.stdin.read().split(" ", 2)
      open("picture.raw", "wb").write(b"".join(bytes(v for i, v in enumerate(row) if i % 4 < 3) for row in ast.literal_eval(rows)))'
      """)
    let file = directory.appending("picture.raw")
    return [UInt8](try Data(contentsOf: URL(fileURLWithPath: file.string)))
  }
}

extension Picture {
  /// Against an image in memory, bytes red, green and blue.
  fileprivate func firstDifference(inRGB bytes: [UInt8]) -> String? {
    firstDifference(in: bytes, stride: width * 3, bytesPerPixel: 3) { value in
      (UInt8(value >> 16 & 0xff), UInt8(value >> 8 & 0xff), UInt8(value & 0xff))
    }
  }
}
