internal import DomainOptions
internal import FoundationEssentials
internal import Glibc
internal import Linux
internal import SystemPackage

/// A domain to recover.
protocol RecoverableDomain {
  var name: String { get }
  var isActive: Bool { get }
  func running() throws(LibvirtError) -> DomainXML
  /// Executes a QMP command.
  func execute(_ command: String, _ arguments: [String: JSONValue]) throws(LibvirtError) -> Data
}

extension LibvirtDomain: RecoverableDomain {}

/// Gives a running guest a card again after its helper has ended. QEMU can neither reconnect a vhost-user GPU nor unplug
/// it. But QEMU 10.1 and later can plug in a second card, the generic device, with a new helper.
package struct Recovery {
  private let domain: any RecoverableDomain
  private let root: FilePath
  /// Starts a program, does not wait for it, and returns its number.
  private let start: ([String]) throws(Errno) -> Int32
  /// The string of the domain's video.
  private let reference: String
  private let places: DomainPlaces
  private let owner: (user: UInt32, group: UInt32)
  /// Whether the card of an earlier recovery is there.
  private let hasOwnCard: Bool
  /// The free ports for the card.
  private let ports: [String]

  /// The ids of the card and of its connection in QEMU.
  private static let name = "udmabridge"
  private static let device = "vhost-user-test-device-pci"
  private static let devices = "/machine/peripheral"

  /// Checks whether the domain's helper can be replaced. This changes nothing, but the domain becomes tainted.
  package init(_ domain: LibvirtDomain) throws(LibvirtError) {
    try self.init(domain, root: "/") { command throws(Errno) in try startDetached(command) }
  }

  /// - Parameter root: the directory in which the host's files are.
  init(
    _ domain: any RecoverableDomain, root: FilePath, start: @escaping ([String]) throws(Errno) -> Int32
  ) throws(LibvirtError) {
    (self.domain, self.root, self.start) = (domain, root, start)
    let name = domain.name
    guard domain.isActive else { throw .noRecovery(name, "it does not run: start it") }
    let running = try domain.running()
    guard let text = running.referenceText else {
      throw .noRecovery(name, "it runs without vhost-user-udmabuf")
    }
    let account = HostFiles(root: root).account()
    owner = running.owner ?? (account?.user ?? geteuid(), account?.group ?? getegid())
    if let pid = Self.helper(of: text, owner.user) {
      throw .noRecovery(name, "its helper, process \(pid), still runs; if it hangs, end it first")
    }
    do throws(LibvirtError) {
      _ = try domain.execute("device-list-properties", ["typename": .text(Self.device)])
    } catch {
      guard case .monitor = error else { throw error }
      throw .noRecovery(
        name,
        "its QEMU has no \(Self.device), which 10.1 and later have, so no card can be plugged in; end the "
          + "domain and start it again")
    }
    let members = try domain.members(Self.devices)
    hasOwnCard = members.contains { $0.name == Self.name }
    ports = hasOwnCard ? [] : try Self.freePorts(domain, members)
    reference = text
    do throws(DomainError) { places = try DomainPlaces(name, root: root) } catch { throw .reference(error) }
  }

  /// The running helper with this string, if any. It must be QEMU's user's or root's, because anybody can give a process
  /// this name.
  private static func helper(of reference: String, _ owner: UInt32) -> Int32? {
    processNumbers().first { pid in
      guard let process = try? RunningProcess(pid), let words = try? process.arguments(),
        let program = words.first, program.hasSuffix("vhost-user-udmabuf"),
        words.contains("--render-node=\(reference)"), let user = try? process.user()
      else { return false }
      return user == owner || user == 0
    }
  }

  /// The free PCI Express ports that take a card.
  private static func freePorts(
    _ domain: any RecoverableDomain, _ members: [(name: String, type: String)]
  ) throws(LibvirtError) -> [String] {
    var free: [String] = []
    for (port, type) in members where type == "child<pcie-root-port>" {
      // A port's bus has the port's name, and a link child[N] to each device.
      let onBus = try domain.members("\(devices)/\(port)/\(port)")
      if onBus.contains(where: { $0.name.hasPrefix("child[") }) { continue }
      // libvirt's <target hotplug='off'/>. A port without the property may be tried.
      if (try? domain.truth(of: "hotplug", in: "\(devices)/\(port)")) != false { free.append(port) }
    }
    guard free.isEmpty else { return free }
    throw .noRecovery(
      domain.name,
      "it has no free PCI Express port for a card; end it, and give it one more: "
        + "<controller type='pci' model='pcie-root-port'/>")
  }

  /// Plugs the card in, and restarts the domain's presenter, if it has one.
  /// - Parameter say: is called with each step.
  package func run(_ say: (String) -> Void) throws {
    var ports = ports
    if hasOwnCard {
      say("unplugging the card of an earlier recovery")
      _ = try domain.execute("device_del", ["id": .text(Self.name)])
      try wait("the guest did not let go of its card within 30 s: its driver may hang", for: .seconds(30)) {
        try !domain.members(Self.devices).contains { $0.name == Self.name }
      }
      // QEMU lets go of the device a moment later.
      try wait("QEMU did not let go of the card's connection within 10 s", for: .seconds(10)) {
        removeConnection()
      }
      ports = try Self.freePorts(domain, domain.members(Self.devices))
    } else {
      // A connection without a card is the rest of an interrupted recovery.
      removeConnection()
    }
    let socket = places.directory.appending("recover")
    say("starting a helper")
    let helper = try startHelper(socket)
    do {
      try wait(
        "the new helper did not listen within 10 s; the system's log says why", for: .seconds(10)
      ) {
        (try? FileAccess(of: socket)) != nil && !UnixSocket.isStale(socket)
      }
      try plug(into: ports, socket, say)
    } catch {
      // A left-over connection would disturb the next recovery.
      removeConnection()
      end(helper)
      throw error
    }
    // The old presenter has ended with the helper, or waits for a socket that nobody served.
    let presenter = Hook(root: root) { command throws(Errno) in _ = try start(command) }
    presenter.run(domain.name, "started") { [] }.messages.forEach(say)
  }

  /// Plugs the card into the first port that takes it.
  private func plug(into ports: [String], _ socket: FilePath, _ say: (String) -> Void) throws(LibvirtError) {
    let address: JSONValue = .object([
      "type": .text("unix"), "data": .object(["path": .text(socket.string)]),
    ])
    let connection: JSONValue = .object(["addr": address, "server": .truth(false)])
    _ = try domain.execute(
      "chardev-add",
      [
        "id": .text(Self.name),
        "backend": .object(["type": .text("socket"), "data": connection]),
      ])
    var refusals: [String] = []
    for port in ports {
      say("plugging a card into \(port)")
      do throws(LibvirtError) {
        // virtio-gpu: two queues, and 20 bytes of configuration.
        _ = try domain.execute(
          "device_add",
          [
            "driver": .text(Self.device), "id": .text(Self.name), "chardev": .text(Self.name),
            "bus": .text(port), "virtio-id": .number(16), "num_vqs": .number(2), "vq_size": .number(256),
            "config_size": .number(20),
          ])
        return
      } catch {
        guard case .monitor(_, let why) = error else { throw error }
        refusals.append("\(port): \(why)")
      }
    }
    throw .noRecovery(
      domain.name, "QEMU could not plug the card into any port: \(refusals.joined(separator: "; "))")
  }

  /// - Returns: whether it existed, and no card uses it.
  @discardableResult private func removeConnection() -> Bool {
    (try? domain.execute("chardev-remove", ["id": .text(Self.name)])) != nil
  }

  /// Starts a helper as libvirt does: with the domain's string, as QEMU's user. Nothing looks after it; it ends with QEMU.
  /// - Returns: its number.
  private func startHelper(_ socket: FilePath) throws -> Int32 {
    guard let binary = HostFiles(root: root).descriptions().first(where: { $0.type == "gpu" })?.binary else {
      throw LibvirtError.noRecovery(domain.name, "no back end is installed: make install")
    }
    try makeDirectory(places.runtime, mode: 0o755)
    try makeDirectory(places.directory, mode: 0o755)
    try setOwner(places.directory, user: owner.user, group: owner.group)
    var command = [binary, "--socket-path=\(socket)", "--render-node=\(reference)"]
    if owner.user != geteuid() {
      let user = ["--reuid=\(owner.user)", "--regid=\(owner.group)", "--init-groups"]
      command = ["setpriv"] + user + ["--"] + command
    }
    return try start(command)
  }

  /// Ends the helper. It is a child of this process, so no other process can have its number.
  private func end(_ helper: Int32) {
    _ = kill(helper, SIGTERM)
    guard let process = try? RunningProcess(helper) else { return }
    do { try wait("it hangs", for: .seconds(2)) { !process.isRunning } } catch { _ = kill(helper, SIGKILL) }
  }

  private func wait(_ failure: String, for limit: TimeSpan, _ condition: () throws -> Bool) throws {
    let deadline = Instant.now + limit
    while try !condition() {
      if Instant.now > deadline { throw LibvirtError.noRecovery(domain.name, failure) }
      usleep(50_000)
    }
  }
}
