internal import Domains
internal import Glibc
internal import Linux
internal import SystemPackage

/// Gives a running guest a card again after its helper has ended. No QEMU connects a vhost-user GPU anew, nor lets it be
/// unplugged; but QEMU 10.1 and later can plug in a card of the generic kind beside it, with a helper of its own.
public struct Recovery {
  private let domain: LibvirtDomain
  private let files: HostFiles
  /// The string of the domain's video.
  private let reference: String
  private let places: DomainPlaces
  private let owner: (user: UInt32, group: UInt32)
  /// An earlier recovery's card is there.
  private let hasOwnCard: Bool
  /// A free port to plug it into.
  private let port: String

  /// What the card and its connection are called in QEMU.
  private static let name = "udmabridge"
  private static let device = "vhost-user-test-device-pci"
  private static let devices = "/machine/peripheral"

  /// Looks whether the domain's helper can be replaced. Nothing is changed yet, but that the domain becomes tainted.
  public init(_ domain: LibvirtDomain, files: HostFiles = HostFiles()) throws(LibvirtError) {
    (self.domain, self.files) = (domain, files)
    let name = domain.name
    guard domain.isActive else { throw .noRecovery(name, "it does not run: start it") }
    let running = try domain.running()
    guard let text = running.referenceText else {
      throw .noRecovery(name, "it runs without vhost-user-udmabuf")
    }
    if let pid = Self.helper(of: text) {
      throw .noRecovery(name, "its helper, process \(pid), runs; if it hangs, end it first")
    }
    do throws(LibvirtError) {
      _ = try domain.execute("device-list-properties", ["typename": .text(Self.device)])
    } catch {
      guard case .monitor = error else { throw error }
      throw .noRecovery(
        name,
        "its QEMU has no \(Self.device), which 10.1 and later have: a card cannot be plugged in while it runs; end the "
          + "domain and start it anew")
    }
    let members = try domain.members(Self.devices)
    hasOwnCard = members.contains { $0.name == Self.name }
    port = hasOwnCard ? "" : try Self.freePort(domain, members)
    reference = text
    places = DomainPlaces(name)
    let account = files.account()
    owner = running.owner ?? (account?.user ?? geteuid(), account?.group ?? getegid())
  }

  /// The helper that runs with this string, if one does.
  private static func helper(of reference: String) -> Int32? {
    processNumbers().first { pid in
      guard let words = try? RunningProcess(pid).arguments(), let program = words.first else { return false }
      return program.hasSuffix("vhost-user-udmabuf") && words.contains("--render-node=\(reference)")
    }
  }

  /// A PCI Express port that nothing is plugged into.
  private static func freePort(
    _ domain: LibvirtDomain, _ members: [(name: String, type: String)]
  ) throws(LibvirtError) -> String {
    for (port, type) in members where type == "child<pcie-root-port>" {
      // Its bus is called as it is itself, and has a link child[N] to each device.
      let onBus = try domain.members("\(devices)/\(port)/\(port)")
      if !onBus.contains(where: { $0.name.hasPrefix("child[") }) { return port }
    }
    throw .noRecovery(
      domain.name,
      "it has no free PCI Express port; for the next time, give it one more: "
        + "<controller type='pci' model='pcie-root-port'/>")
  }

  /// Plugs the card in.
  /// - Parameter say: hears of each step.
  public func run(_ say: (String) -> Void) throws {
    var port = port
    if hasOwnCard {
      say("unplugging the card of an earlier recovery")
      _ = try domain.execute("device_del", ["id": .text(Self.name)])
      try wait("the guest does not let go of its card within 30 s: its driver may hang", seconds: 30) {
        try !domain.members(Self.devices).contains { $0.name == Self.name }
      }
      // QEMU is done with the device a moment after that.
      try wait("QEMU does not let go of the card's connection within 10 s", seconds: 10) {
        (try? domain.execute("chardev-remove", ["id": .text(Self.name)])) != nil
      }
      port = try Self.freePort(domain, domain.members(Self.devices))
    }
    let socket = places.directory.appending("recover")
    say("starting a helper")
    try startHelper(socket)
    try wait("the new helper does not listen within 10 s; its log, the system's, says why", seconds: 10) {
      (try? FileAccess(of: socket)) != nil && !UnixSocket.isStale(socket)
    }
    say("plugging a card into \(port)")
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
    // virtio-gpu: two queues, and 20 bytes of configuration.
    _ = try domain.execute(
      "device_add",
      [
        "driver": .text(Self.device), "id": .text(Self.name), "chardev": .text(Self.name), "bus": .text(port),
        "virtio-id": .number(16), "num_vqs": .number(2), "vq_size": .number(256), "config_size": .number(20),
      ])
  }

  /// As libvirt starts one: with the domain's string, as QEMU's user. It belongs to nobody, and ends with QEMU.
  private func startHelper(_ socket: FilePath) throws {
    guard let binary = files.descriptions().first(where: { $0.type == "gpu" })?.binary else {
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
    try startDetached(command)
  }

  private func wait(_ failure: String, seconds: Int64, _ condition: () throws -> Bool) throws {
    let deadline = monotonicNanoseconds() + seconds * 1_000_000_000
    while try !condition() {
      if monotonicNanoseconds() > deadline { throw LibvirtError.noRecovery(domain.name, failure) }
      usleep(50_000)
    }
  }
}
