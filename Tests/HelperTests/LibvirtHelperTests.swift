import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// The helper as libvirt starts it.
@Suite final class LibvirtHelperTests {
  private let program = builtPrograms.appending("vhost-user-udmabuf")
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }
  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Starts it with one end of a connection, and lends the other.
  private func start(
    _ arguments: [String], _ body: (borrowing UnixSocket, Child) throws -> Void
  ) throws -> (status: Int32, output: String) {
    var result: (Int32, String)?
    try UnixSocket.pair { ours, theirs in
      let number = theirs.fd.withRaw { $0 }
      let (child, output) = try startReading(
        program, ["--fd=29"] + arguments, withErrors: true, descriptors: [29: number])
      _ = consume theirs
      try body(ours, child)
      _ = consume ours
      result = (child.wait(), try output.readToEnd())
    }
    return try #require(result)
  }

  @Test("a domain's string sets the helper's options, and its log names the domain")
  func domain() throws {
    let control = directory.appending("control")
    let reference =
      "/run/udmabridge/my%20web?control=\(control.string.replacingOccurrences(of: "/", with: "%2F"));control-mode=666;resolution=800x600;log-level=info"
    let (status, output) = try start(["--virgl", "--render-node=\(reference)"]) { connection, _ in
      try greet(connection)
      #expect(try FileAccess(of: control).mode & 0o777 == 0o666)
      let (_, text) = try run(
        builtPrograms.appending("udmabridge"), ["watch", "--help"], withErrors: true)
      #expect(text.contains("--domain"))
      let stats = try run(
        builtPrograms.appending("udmabridge"), ["stats", "--control", control.string], withErrors: true)
      #expect(stats.status == 0 && stats.output.contains("device.flushes"), "\(stats.output)")
    }
    #expect(status == 0)
    #expect(
      output.contains("vhost-user-udmabuf: info: domain my web: the guest's frames are offered"), "\(output)")
  }

  private static let mayMount =
    geteuid() == 0
    && (try? run("/usr/bin/unshare", ["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]))?.status == 0

  @Test(
    "without standard error the log is a stream to journald, and all the helper's sockets are streams",
    .enabled(if: mayMount, "needs root, and mounts of its own"))
  func journal() throws {
    let script = """
      import os, socket, subprocess, sys
      server = socket.socket(socket.AF_UNIX)
      os.makedirs("/run/systemd/journal")
      server.bind("/run/systemd/journal/stdout")
      server.listen()
      # One for datagrams, which must not be taken.
      other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
      other.bind("/run/systemd/journal/dev-log")
      ours, theirs = socket.socketpair()
      null = subprocess.DEVNULL
      helper = subprocess.Popen(
          [sys.argv[1], f"--fd={theirs.fileno()}", "--control=/run/control", "--log-level=info"],
          pass_fds=[theirs.fileno()], stdin=null, stdout=null, stderr=null)
      log = server.accept()[0].makefile()
      for _ in range(8): print(log.readline(), end="")
      # It serves, and so is in the sandbox.
      ours.sendall(bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))
      ours.recv(20)
      directory = f"/proc/{helper.pid}/fd"
      links = [os.readlink(f"{directory}/{number}") for number in os.listdir(directory)]
      inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
      lines = [line.split() for line in open("/proc/net/unix").readlines()[1:]]
      print({line[4] for line in lines if line[6] in inodes}, sum(line[6] in inodes for line in lines))
      ours.close()
      print(helper.wait())
      """
    let mounted = "mount -t tmpfs none /run && exec /usr/bin/python3 -c \"$0\" \"$1\""
    let (status, output) = try run(
      "/usr/bin/unshare", ["--mount", "/bin/sh", "-c", mounted, script, program.string], withErrors: true)
    // The header that journald wants (its protocol of streams), and the first line. Then all its sockets, of the kind
    // 0001 (SOCK_STREAM): QEMU's connection, the log, and the control socket.
    let expected = """
      vhost-user-udmabuf

      30
      1
      0
      0
      0
      """
    #expect(status == 0 && output.hasPrefix(expected), "\(output)")
    let rest = output.split(separator: "\n").dropFirst(6)
    let line = rest.first ?? ""
    let marks = ["<4>vhost-user-udmabuf: warning: ", "<6>vhost-user-udmabuf: info: "]
    #expect(marks.contains { line.hasPrefix($0) }, "\(line)")
    #expect(rest.suffix(2) == ["{'0001'} 3", "0"], "\(output)")
  }

  @Test("without the hook's directory the helper serves the guest, and says what is missing")
  func noDirectory() throws {
    let name = "no-such-domain-\(UInt32.random(in: 0...(.max)))"
    let (status, output) = try start(["--render-node=/run/udmabridge/\(name)?"]) { connection, _ in
      try greet(connection)
    }
    #expect(status == 0)
    #expect(output.contains("there is no /run/udmabridge/\(name), which the hook makes"), "\(output)")
  }

  @Test("a render node is not used, and the log says so")
  func renderNode() throws {
    let (status, output) = try start(["--virgl", "--render-node=/dev/dri/renderD128"]) { connection, _ in
      try greet(connection)
    }
    #expect(status == 0 && output.contains("/dev/dri/renderD128 is not used"), "\(output)")
  }

  @Test(
    "a wrong string of a domain ends the helper with status 1 and the reason in one line",
    arguments: [
      ("/run/udmabridge/", "no name"), ("/run/udmabridge/a?kms=/dev/dri/card0", "%2F"),
      ("/run/udmabridge/a?fd=3", "no option fd"),
      ("/run/udmabridge/a?backing=never", "backing"), ("/run/udmabridge/a?kms=nonsense", "nonsense"),
    ])
  func wrong(_ reference: String, _ reason: String) throws {
    let (status, output) = try start(["--render-node=\(reference)"]) { _, child in child.wait() }
    #expect(status == 1)
    let lines = output.split(separator: "\n").filter { !$0.contains("which the hook makes") }
    #expect(lines.count == 1 && lines[0].contains(reason), "\(output)")
  }

  @Test(
    "for a domain without a control socket the tool names the command that checks it",
    arguments: ["stats", "watch", "snapshot x"])
  func tool(_ command: String) throws {
    let words = command.split(separator: " ").map(String.init) + ["--domain", "no-such-domain"]
    let (status, output) = try run(builtPrograms.appending("udmabridge"), words, withErrors: true)
    #expect(status == 1 && output.contains("udmabridge libvirt check"), "\(output)")
    let both = try run(builtPrograms.appending("udmabridge"), words + ["--control", "/x"], withErrors: true)
    #expect(both.status == 64)
    #expect(
      try run(builtPrograms.appending("udmabridge"), Array(words.dropLast(2)), withErrors: true).status == 64)
  }
}
