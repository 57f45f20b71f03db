import Buffers
import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

private let program = builtPrograms.appending("vhost-user-udmabuf")

/// What callers of the control socket can make the helper keep open, beside what it has put by for them.
@Suite struct OfferDescriptorsTests {
  /// Offers as much as there may be, while all other connections have passed as many descriptors as fit and have not ended their
  /// message. Prints how many offers there are, and waits.
  private static let script = """
    import array, fcntl, json, os, socket, sys
    def memory():
        fd = os.memfd_create("offered", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return fd
    def connect():
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
        return s
    def ask(s, call, fds=()):
        socket.send_fds(s, [json.dumps(call).encode() + b"\\0"], fds)
        reply = b""
        while not reply.endswith(b"\\0"):
            piece = s.recv(65536)
            if not piece: sys.exit("the helper closed the connection")
            reply += piece
        return json.loads(reply[:-1])
    others = [connect() for _ in range(31)]
    mine = connect()
    for s in others: socket.send_fds(s, [b"{"], [memory() for _ in range(8)])
    offers = 0
    for _ in range(64):
        read, write = os.pipe()
        fds = [memory(), write]
        reply = ask(mine, {"method": "io.udmabridge.Buffers.Offer", "parameters": {"fileDescriptor": 0, "token": 1}}, fds)
        offers += "error" not in reply
        for fd in fds: os.close(fd)
    print(offers, flush=True)
    sys.stdin.read()
    """

  @Test("the reserved descriptors are enough for all connections and all offers at once")
  func allAtOnce() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let control = directory.appending("control")
    let options = [
      "--profile", "share", "--control", control.string, "--port", directory.appending("port").string,
      "--control-connections", "33",
    ]
    // It says how many it must have.
    let poor = try Listening(program, options: options, limit: "-n 64")
    let refusal = try poor.output.readToEnd()
    let fewest = try #require(
      refusal.firstMatch(of: /([0-9]+) is the least/).flatMap { Int($0.1) }, "\(refusal)")

    let helper = try Listening(program, options: options, limit: "-n \(fewest)")
    // A helper that answers has opened all that it opens by itself, and this connection stays open while descriptors are counted.
    let first = try helper.connect(to: control)
    unsafe try first.fd.write(Array(#"{"method":"org.varlink.service.GetInfo"}"#.utf8 + [0]).span.bytes)
    #expect(try !first.fd.read(upTo: 1 << 16).isEmpty)
    func open() -> Int { directoryEntries(FilePath("/proc/\(helper.child.pid)/fd")).count }
    let before = open()
    let (caller, output) = try startReading(
      "/usr/bin/python3", ["-c", Self.script, control.string], withErrors: true)
    let said = try output.readLine()
    #expect(said == "64" && helper.child.isRunning)
    let used = open() - before
    #expect(used >= 31 * 8 + 2 * 64, "they are open")
    #expect(used <= fewest - 2 * Quotas.reservedDescriptors, "of those put by for others than the guest")
    caller.signal(SIGKILL)
    caller.wait()
    try waitUntil("all are closed") { open() <= before }
  }
}
