import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf

/// A real guest under QEMU/KVM with the helper as its graphics card, started by `qemu/run-guest`.
final class RunningGuest {
  let directory: FilePath
  private let process: Child

  var helperLog: String { log("helper.log") }
  var console: String { log("console.log") }

  private func log(_ name: String) -> String {
    (try? readText(directory.appending(name), upTo: 1 << 28)) ?? ""
  }

  /// The ends of all logs, for whoever has to find out what went wrong.
  var lastWords: String {
    ["console.log", "qemu.log", "helper.log"].map { name in
      let lines = log(name).split(separator: "\n").suffix(25)
      return "--- \(name)\n" + lines.joined(separator: "\n")
    }.joined(separator: "\n")
  }

  /// - Parameters:
  ///   - kms: the helper's card; with nil it has none, so that another helper can be the card's master.
  ///   - options: of `qemu/run-guest`, beside those that tests always give.
  ///   - descriptors: which of ours it gets under which number, for `fd:N` in an option.
  ///   - hasShell: it is the image that setup builds, and answers when it has booted.
  init(
    memory: String = "512M", ram: String = "memfd", resolution: String, kms: String? = "auto",
    helperOptions: [String] = [], options: [String] = [],
    descriptors: [Int32: Int32] = [:], hasShell: Bool = true
  ) throws {
    directory = try makeTemporaryDirectory()
    // For a helper that runs as somebody else.
    _ = unsafe directory.withPlatformString { unsafe chmod($0, 0o777) }
    process = try Child(
      repository.appending("qemu/run-guest"),
      [
        "--memory", memory, "--ram", ram, "--resolution", resolution, "--log", directory.string,
        "--stats", directory.appending("stats").string, "--shell", directory.appending("shell").string,
        "--qmp", directory.appending("qmp").string, "--helper-option=--log-level", "--helper-option=debug",
      ] + (kms.map { ["--kms", $0] } ?? []) + helperOptions.map { "--helper-option=\($0)" } + options,
      descriptors: descriptors)
    do {
      try waitUntil("QEMU is there") { !process.isRunning || access(directory.appending("shell")) }
      if hasShell { _ = try shell("true") }
    } catch {
      end()
      throw TroubleInTest("the guest does not answer: \(error)\n\(helperLog)")
    }
  }

  deinit {
    end()
    _ = try? FileManager.default.removeItem(atPath: directory.string)
  }

  /// Ends the guest and the helper as a person would.
  func end() {
    process.signal(SIGTERM)
    process.wait()
  }

  /// Waits for `run-guest`, which ends when both have ended.
  func waitForEnd() { process.wait() }

  /// Stops `run-guest` meanwhile, which else ends what is left when one of its processes is gone.
  func whileNobodyLooks(_ body: () throws -> Void) throws {
    try process.stop()
    defer { process.signal(SIGCONT) }
    try body()
  }

  // MARK: The guest

  private func access(_ path: FilePath) -> Bool { FileManager.default.fileExists(atPath: path.string) }

  /// Runs a command in the guest.
  /// - Returns: its output.
  @discardableResult
  func shell(_ command: String, within limit: TimeSpan = Patience.limit) throws -> String {
    guard process.isRunning else { throw TroubleInTest("QEMU or the helper has ended:\n\(helperLog)") }
    do {
      let (status, output) = try GuestShell(path: directory.appending("shell")).run(command, within: limit)
      if status == 0 { return output }
      throw TroubleInTest("status \(status) of «\(command)» in the guest: \(output)\n\(lastWords)")
    } catch let failure as GuestShell.Failure {
      throw TroubleInTest("\(failure): «\(command)» in the guest\n\(lastWords)")
    }
  }

  /// The ids that modetest wants: of the first connector and the first CRTC.
  func modetestTarget() throws -> String {
    let listing = try shell("modetest -M virtio_gpu -c -p")
    func firstID(after title: String) -> String? {
      let lines = listing.split(separator: "\n", omittingEmptySubsequences: false)
      guard let index = lines.firstIndex(of: title[...]), index + 2 < lines.count else { return nil }
      return lines[index + 2].split(separator: "\t").first.map(String.init)
    }
    guard let connector = firstID(after: "Connectors:"), let crtc = firstID(after: "CRTCs:") else {
      throw TroubleInTest("modetest lists no connector or no CRTC:\n\(listing)")
    }
    return "\(connector)@\(crtc)"
  }

  /// modetest shows its pattern in the guest, and that is what is on the screen, lent and not copied.
  func expectModetest(_ width: Int, _ height: Int) throws {
    let target = try modetestTarget()
    try shell("pattern m -s \(target):\(width)x\(height)@XR24")
    try expectLent(.smpte(width, height))
    try shell("drop m; true")
    let statistics = try settledStatistics()
    #expect(statistics.bytesCopied == 0)
    #expect(statistics.buffersLent > 0)
    #expect(statistics.protocolErrors.isEmpty)
  }

  /// The picture is on the screen, pixel by pixel, and the memory on the screen is the guest's own.
  func expectLent(_ picture: Picture) throws {
    var difference: String? = "nothing was compared"
    // The guest says that it has drawn; the screen follows a flip later.
    try? waitUntil("the picture is on the screen") {
      difference = picture.firstDifference(in: try Screenshot.take())
      return difference == nil
    }
    #expect(difference == nil, "screenshot")
    let shown = try #require(try ShownFramebuffer.current(), "the screen is dark")
    #expect((shown.width, shown.height) == (picture.width, picture.height))
    #expect(picture.firstDifference(inXRGB: try shown.bytes(), stride: shown.stride) == nil, "dma-buf")
    // It is the guest's own pages: a udmabuf, and the very one that the helper holds.
    #expect(try shown.dmabuf.exporter() == "udmabuf")
    let helper = try #require(helperPID)
    #expect(Self.udmabufInodes(of: helper).contains(shown.dmabuf.inode))
  }

  // MARK: The processes

  var helperPID: pid_t? { child(named: "vhost-user-udma") }
  var qemuPID: pid_t? { child(named: "qemu-system-x86") }

  private func child(named name: String) -> pid_t? {
    let children =
      (try? readText(
        FilePath("/proc/\(process.pid)/task/\(process.pid)/children")))
      ?? ""
    return children.split(separator: " ").compactMap { pid_t($0) }.first {
      (try? readText(FilePath("/proc/\($0)/comm")))?.hasPrefix(name) ?? false
    }
  }

  /// What the helper writes on SIGUSR1.
  func statistics() throws -> HelperStatistics {
    let path = directory.appending("stats")
    guard let pid = helperPID else { throw TroubleInTest("the helper is gone:\n\(helperLog)") }
    _ = unsafe path.withPlatformString { unsafe truncate($0, 0) }
    kill(pid, SIGUSR1)
    var result: HelperStatistics?
    try waitUntil("the helper writes its statistics") {
      result = try? JSONDecoder().decode(HelperStatistics.self, from: Data(readText(path).utf8))
      return result != nil
    }
    return result!
  }

  /// The statistics once every flush is accounted for.
  func settledStatistics() throws -> HelperStatistics {
    var last: HelperStatistics?
    try waitUntil("every flush is shown, coalesced or failed") {
      let now = try statistics()
      defer { last = now }
      return now.isSettled && now == last
    }
    return last!
  }

  /// The inodes of the dma-bufs that udmabuf made and that a process holds by descriptor.
  static func udmabufInodes(of pid: pid_t) -> Set<UInt64> {
    var inodes: Set<UInt64> = []
    for number in directoryEntries(FilePath("/proc/\(pid)/fd")) {
      guard let information = try? readText(FilePath("/proc/\(pid)/fdinfo/\(number)")),
        information.contains("exp_name:\tudmabuf")
      else { continue }
      var status = stat()
      if unsafe stat("/proc/\(pid)/fd/\(number)", &status) == 0 { inodes.insert(UInt64(status.st_ino)) }
    }
    return inodes
  }

  // MARK: QEMU's monitor

  /// Plugs 256 MiB of memory in, as `dimm` in `later`, which the guest uses from then on and can give back.
  func plugDIMM(options: [String: Any] = [:]) throws {
    let backend: [String: Any] = [
      "qom-type": "memory-backend-memfd", "id": "later", "size": 256 << 20, "share": true,
    ]
    try monitor("object-add", backend.merging(options) { $1 })
    try monitor("device_add", ["driver": "pc-dimm", "id": "dimm", "memdev": "later"])
    try shell(
      "until ls -d /sys/devices/system/memory/memory32 2>/dev/null; do usleep 100000; done; "
        + "for block in /sys/devices/system/memory/memory3[2-3]; do grep -q online $block/state || echo online_movable >$block/state; done"
    )
  }

  /// Executes a QMP command.
  /// - Returns: QEMU's answer, empty if it is no object.
  @discardableResult
  func monitor(_ command: String, _ arguments: [String: Any] = [:]) throws -> [String: Any] {
    try Monitor(directory.appending("qmp")).execute(command, arguments) as? [String: Any] ?? [:]
  }
}

/// The helper's statistics, as its users read them.
struct HelperStatistics: Decodable, Equatable {
  var flushes, framesShown, framesCoalesced, framesFailed: UInt64
  var buffersLent, entriesReported, itemsJoined, pagesLent, bytesLent, bytesCopied: UInt64
  var liveDMABufs, pinnedBytes, liveResources, releasedLate, shadowBytes: UInt64
  var shadows, protocolErrors: [String: UInt64]

  var isSettled: Bool { framesShown + framesCoalesced + framesFailed == flushes }
}
