import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

/// Domains beside other things of a host: another domain, cgroups, systemd.
@Suite(
  .serialized,
  .enabled(if: LibvirtHost.isPossible, "needs root, libvirtd, and what qemu/setup --all fetches"))
struct LibvirtSetups {
  init() throws {
    if TestHost.isActive {
      try TestHost.write("16384", to: UdmabufLimits.directory.appending("list_limit"))
    }
  }

  private static let size = "1024x768"

  private func picture(_ seed: UInt32) -> Picture { .positions(1024, 768, seed: seed) }

  private func expectOnCard(_ picture: Picture, _ comment: Comment? = nil) throws {
    var difference: String? = "nothing was compared"
    try? waitUntil("the picture is on the screen") {
      difference = picture.firstDifference(in: try Screenshot.take())
      return difference == nil
    }
    #expect(difference == nil, comment)
    let framebuffer = try #require(try ShownFramebuffer.current(), "the screen is dark")
    #expect(try framebuffer.dmabuf.exporter() == "udmabuf")
  }

  private func expectNothingCopied(_ host: LibvirtHost, _ name: String) throws {
    let statistics = try host.run("udmabridge stats --domain \(name)")
    #expect(statistics.contains(/device\.bytesCopied +0\n/), "\(statistics)")
  }

  // MARK: Another domain

  @Test(
    "one domain on the card and one on QEMU's own display show their pictures at once",
    .enabled(if: TestHost.isActive, "needs a card, and a render node for QEMU"))
  func window() throws {
    let host = try LibvirtHost()
    let qemu = host.directory.appending("qemu")
    let line =
      "export UDMABRIDGE_CACHE=\(LibvirtHost.cache); exec \(repository)/qemu/lib/with-displays /usr/bin/qemu-system-x86_64"
    try "#!/bin/sh\n\(line) \"$@\"\n".write(toFile: qemu.string, atomically: false, encoding: .utf8)
    try host.run("chmod 755 \(qemu)")
    let graphics =
      "<graphics type='dbus' p2p='yes'><gl enable='yes' rendernode='/dev/dri/renderD128'/></graphics>"
    try host.define("window", devices: graphics, emulator: qemu)
    try host.define("plain")
    #expect(try host.run("udmabridge libvirt enable window").contains("?display=qemu"))
    try host.run("udmabridge libvirt enable plain --option kms=auto --option resolution=\(Self.size)")
    let (status, report) = try host.attempt("udmabridge libvirt check window")
    #expect(status == 0, "\(report)")
    try host.run("virsh start plain && virsh start window")
    #expect(host.helpers().count == 2)

    let pictures = host.directory.appending("pictures")
    try host.run("mkdir \(pictures)")
    try picture(7).write(to: pictures.appending("seven"))
    try host.run(
      """
      setsid \(LibvirtHost.cache)/venv/bin/python3 \(repository)/qemu/lib/display-listener --domain window \(pictures) \
      </dev/null >seen 2>&1 &
      """)
    let seen = host.directory.appending("seen")
    try waitUntil("it listens") { (try? readText(seen))?.contains("listening") ?? false }

    try host.guest("plain", "hold p draw pattern \(Self.size) XR24 5 hold")
    try host.guest("window", "hold p draw pattern \(Self.size) XR24 7 hold")
    let wanted = "\(Self.size) XR24 seven dma-buf udmabuf"
    func lastPicture() throws -> String {
      let lines = try readText(seen).split(separator: "\n")
      return String(lines.last { !$0.hasPrefix("pointer") } ?? "nothing")
    }
    try? waitUntil("the second one's picture") {
      try host.guest("window", "tell p dirty 0 0 1024 768")
      return try lastPicture() == wanted
    }
    #expect(try lastPicture() == wanted)
    try expectOnCard(picture(5))
    for name in ["plain", "window"] { try expectNothingCopied(host, name) }
    try host.run("virsh destroy window")
    try expectOnCard(picture(5), "after the other one's end")
    try host.run("virsh destroy plain")
    #expect(try host.run("ls /run/udmabridge") == "")
  }

  // MARK: A user and a cgroup

  @Test("in a cgroup the helper runs as QEMU's user, and a device that is not allowed is reported")
  func cgroups() throws {
    // There is no udev, which would give them to that user's group.
    if TestHost.isActive {
      #expect(try run("/bin/sh", ["-c", "chmod 666 /dev/kvm /dev/udmabuf /dev/dri/card*"]).status == 0)
    }
    // Elsewhere that user cannot read the QEMU of this machine's own release.
    let host = try LibvirtHost(TestHost.isActive ? .own : .stable, user: "libvirt-qemu")
    try host.define("plain")
    try host.run("udmabridge libvirt enable plain --option resolution=\(Self.size); virsh start plain")
    let helper = try #require(host.helpers().first)
    #expect(
      try host.run("stat -c %U /proc/\(helper) /run/udmabridge/plain/control")
        == "libvirt-qemu\nlibvirt-qemu\n")
    if !TestHost.isActive { try host.expectPicture("plain") }

    // A card, or another device that libvirt does not allow by itself.
    let cards =
      "for c in /sys/class/drm/card?; do ls -d $c/${c##*/}-* >/dev/null 2>&1 && printf /dev/dri/${c##*/}; done; true"
    let device = TestHost.isActive ? try host.run(cards) : "/dev/loop-control"
    let unified = TestHost.isActive ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified"
    func inside(_ command: String) throws -> (status: Int32, output: String) {
      let helper = try #require(host.helpers().first)
      let groups = try readText(FilePath("/proc/\(helper)/cgroup")).split(separator: "\n")
      let group = try #require(groups.first { $0.hasPrefix("0::/machine/") }, "\(groups)").dropFirst(3)
      return try host.attempt("echo $$ >\(unified)\(group)/cgroup.procs && \(command)")
    }
    // The string is a link there.
    if TestHost.isActive { #expect(try inside("true <>/dev/udmabuf").status == 0) }
    let refused = try inside("true <>\(device)")
    #expect(refused.status != 0 && refused.output.contains("Operation not permitted"), "\(refused.output)")
    let told = try inside("vhost-user-udmabuf --socket-path=/run/other --kms=\(device)")
    #expect(told.status == 1 && told.output.contains("cgroup_device_acl"), "\(told.output)")
    try host.run("virsh destroy plain; udmabridge libvirt enable plain --option kms=\(device)")
    let missing = "cgroup_device_acl in qemu.conf does not name \(device)\n"
    #expect(try host.attempt("udmabridge libvirt check plain").output.contains(missing))

    let usual = ["null", "full", "zero", "random", "urandom", "ptmx", "kvm"].map { "/dev/\($0)" }
    let list = (usual + [device]).map { "\"\($0)\"" }.joined(separator: ", ")
    try host.run("echo 'cgroup_device_acl = [ \(list) ]' >>/etc/libvirt/qemu.conf")
    try host.restart()
    let (status, report) = try host.attempt("udmabridge libvirt check plain")
    #expect(report.contains("ok       cgroup "), "\(report)")
    if TestHost.isActive {
      #expect(status == 0, "\(report)")
      try host.run("udmabridge libvirt enable plain --option kms=\(device) --option resolution=\(Self.size)")
      try host.run("virsh start plain")
      try host.expectPicture("plain")
    } else {
      try host.run("udmabridge libvirt enable plain --option cursor=off; virsh start plain")
    }
    #expect(try inside("true <>\(device)").status == 0)
    try host.run("virsh destroy plain")
    try waitUntil("the helper has ended") { host.helpers().isEmpty }
    #expect(try host.run("ls /run/udmabridge") == "")
  }

  // MARK: systemd

  @Test(
    "systemd starts a presenter in its sandbox, and stops it with the domain",
    .enabled(if: TestHost.isActive, "its systemd mounts and makes things"))
  func presenter() throws {
    let host = try LibvirtHost()
    // The first process of a namespace, with no units but ours. systemctl has to be in there too.
    try """
    import os, pty, subprocess
    master, slave = pty.openpty()
    script = f'''
    mount -t proc proc /proc
    mount --bind {os.ttyname(slave)} /dev/console
    export container=udmabridge SYSTEMD_UNIT_PATH=/run/units:/usr/local/lib/systemd/system
    exec /lib/systemd/systemd --system --unit=empty.target --log-target=console --show-status=0
    '''
    command = ["unshare", "--pid", "--fork", "--cgroup", "--mount", "--kill-child", "bash", "-c", script]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    with open("systemd.pid", "w") as file: file.write(str(child.pid))
    os.close(slave)
    with open("systemd.log", "wb", buffering=0) as file:
        try:
            while data := os.read(master, 4096): file.write(data)
        except OSError: pass
    """.write(
      toFile: host.directory.appending("systemd.py").string, atomically: false, encoding: .utf8)
    try host.run(
      """
      mkdir -p /run/units /etc/udmabridge
      for unit in empty basic sysinit shutdown; do printf '[Unit]\\nDefaultDependencies=no\\n' >/run/units/$unit.target; done
      setsid python3 systemd.py </dev/null >/dev/null 2>&1 &
      """)
    try waitUntil("systemd runs") {
      (try? readText(host.directory.appending("systemd.log")))?.contains("Startup finished") ?? false
    }
    try host.run(
      """
      first=$(cat systemd.pid); first=$(cat /proc/$first/task/$first/children)
      printf '#!/bin/sh\\nexec nsenter --target %s --pid --mount /usr/bin/systemctl "$@"\\n' $first >/usr/local/bin/systemctl
      chmod 755 /usr/local/bin/systemctl
      systemctl show --property=Version
      """)
    try host.run("echo 'OPTIONS=--kms auto' >/etc/udmabridge/plain.present")
    try host.define("plain")
    try host.run("udmabridge libvirt enable plain --option resolution=\(Self.size)")
    try host.run("virsh start plain")
    func unit(_ property: String) throws -> String {
      try host.run("systemctl show --property=\(property) --value udmabridge-present@plain.service")
        .filter { !$0.isNewline }
    }
    try host.guest("plain", "hold p draw pattern \(Self.size) XR24 5 hold")
    try expectOnCard(picture(5))
    #expect(try unit("ActiveState") == "active")
    let children = try host.run("cat /proc/$(pgrep -x udmabridge)/status")
    for line in ["CapBnd:\t0000000000000002", "NoNewPrivs:\t1", "Seccomp:\t2"] {
      #expect(children.contains(line), "\(children)")
    }
    try host.run("virsh destroy plain")
    try waitUntil("the presenter has ended") { try unit("ActiveState") == "inactive" }
    #expect(try unit("Result") == "success")
    try host.run("kill -9 $(cat systemd.pid)")
  }
}

extension Picture {
  /// As the listener of QEMU's display reads them: blue, green, red and nothing.
  fileprivate func write(to file: FilePath) throws {
    var bytes: [UInt8] = []
    for y in 0..<height {
      for pixel in row(y) {
        bytes += [UInt8(pixel & 0xff), UInt8(pixel >> 8 & 0xff), UInt8(pixel >> 16 & 0xff), 0]
      }
    }
    unsafe try FD.create(file).write(bytes.span.bytes)
  }
}
