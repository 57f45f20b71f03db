internal import Linux
internal import SystemPackage

/// Finds the port and the render nodes. For missing ones it waits for the kernel's announcements.
final class AgentDevices {
  /// The port's name on the host.
  static let portName = "io.udmabridge.lend.0"
  private static let ports: FilePath = "/sys/class/virtio-ports"
  private static let nodes: FilePath = "/dev/dri"

  private let port, node: FilePath?
  private let loop: EventLoop
  private let log: (String) -> Void
  private var events: DeviceEventSocket
  private var token: EventLoop.Token?
  /// Tries again to open an existing file, because nothing announces that it can be opened.
  private var retry: Timer?
  private var delay = firstDelay
  private static let firstDelay = TimeSpan.milliseconds(250)
  private static let longestDelay = TimeSpan.seconds(60)
  /// The last log line about each file that cannot be opened.
  private var troubles: [FilePath: String] = [:]

  private var cards: [FilePath: any GuestCard] = [:]
  private var hasPort = false

  var whenPort: ((consuming FD) -> Void)?
  var whenCard: ((any GuestCard) -> Void)?
  var whenCardGone: ((any GuestCard) -> Void)?

  /// - Parameters:
  ///   - port: nil means the port of that name.
  ///   - node: nil means all of the driver's.
  init(port: FilePath?, node: FilePath?, loop: EventLoop, log: @escaping (String) -> Void) throws(Errno) {
    (self.port, self.node, self.loop, self.log) = (port, node, loop, log)
    events = try DeviceEventSocket()
    retry = try Timer(loop) { [unowned self] in look() }
    token = try loop.add(events.fd) { [unowned self] _ in hear() }
  }

  deinit { if let token { loop.remove(token, events.fd) } }

  private func hear() {
    var matters = false
    let heardAll = events.drain { event in
      if ["virtio-ports", "drm"].contains(event["SUBSYSTEM"] ?? "") { matters = true }
    }
    if matters || !heardAll {
      delay = Self.firstDelay
      look()
    }
  }

  /// The port was closed, and is looked for again.
  func losePort() {
    hasPort = false
    look()
  }

  /// Opens new files, and gives up cards that are gone.
  func look() {
    retry?.disarm()
    for (path, card) in cards where !card.isThere {
      cards[path] = nil
      log("the card \(path) is gone")
      whenCardGone?(card)
    }
    var isBlocked = false
    if !hasPort, let path = port ?? Self.portPath(Self.ports) { isBlocked = !openPort(path) }
    for path in node.map({ [$0] }) ?? Self.nodePaths(Self.nodes) where cards[path] == nil {
      if !openCard(path) { isBlocked = true }
    }
    guard isBlocked else { return }
    retry?.arm(after: delay)
    delay = min(delay * 2, Self.longestDelay)
  }

  /// The device file of the port of this name.
  /// - Parameter ports: a directory of sysfs.
  static func portPath(_ ports: FilePath) -> FilePath? {
    for entry in directoryEntries(ports).sorted() {
      let name = try? readText(ports.appending(entry).appending("name"))
      if name?.split(separator: "\n").first.map(String.init) == portName {
        return FilePath("/dev").appending(entry)
      }
    }
    return nil
  }

  /// The render nodes in a directory.
  static func nodePaths(_ directory: FilePath) -> [FilePath] {
    directoryEntries(directory).filter { $0.hasPrefix("renderD") }.sorted().map { directory.appending($0) }
  }

  /// - Returns: false if it exists, but cannot be opened now.
  private func openPort(_ path: FilePath) -> Bool {
    do throws(Errno) {
      let fd = try FD.open(path, writable: true, nonblocking: true)
      troubles[path] = nil
      hasPort = true
      whenPort?(fd)
      return true
    } catch { return isMissing(path, error) }
  }

  private func openCard(_ path: FilePath) -> Bool {
    do throws(Errno) {
      guard let card = try VirtGPUCard(path) else { return true }
      troubles[path] = nil
      cards[path] = card
      log("the card \(path) is there")
      whenCard?(card)
      return true
    } catch { return isMissing(path, error) }
  }

  private func isMissing(_ path: FilePath, _ error: Errno) -> Bool {
    // The kernel announces the file when it appears.
    if [.noSuchFileOrDirectory, .noSuchAddressOrDevice, .operationNotSupportedByDevice].contains(error) {
      return true
    }
    let why =
      switch error {
      case .resourceBusy: "another process has it open"
      case .permissionDenied: "permission denied; give it to the agent's user by a rule of udev"
      default: "\(error)"
      }
    if troubles.updateValue(why, forKey: path) != why {
      log("\(path) cannot be opened: \(why); trying again")
    }
    return false
  }
}
