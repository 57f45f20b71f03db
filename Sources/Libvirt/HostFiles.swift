internal import FoundationEssentials
package import Linux
package import SystemPackage

/// A host's files about libvirt, QEMU and its back ends.
package struct HostFiles {
  private let root: FilePath

  /// - Parameter root: the directory in which the host's files are.
  package init(root: FilePath = "/") { self.root = root }

  private func place(_ path: String) -> FilePath { root.appending(path.drop { $0 == "/" }.description) }

  private func isThere(_ path: String) -> Bool { (try? FileAccess(of: place(path))) != nil }

  /// The places where libvirt reads its files, which were set when it was built.
  private var places: (descriptions: [String], configuration: String) {
    if isThere("/etc/NIXOS") { return (["/var/lib/qemu/vhost-user"], "/var/lib/libvirt") }
    let programs = ["sbin/libvirtd", "sbin/virtqemud", "bin/libvirtd", "bin/virtqemud"]
    let isLocal =
      !programs.contains { isThere("/usr/\($0)") } && programs.contains { isThere("/usr/local/\($0)") }
    return isLocal
      ? (["/usr/local/share/qemu/vhost-user", "/usr/local/etc/qemu/vhost-user"], "/usr/local/etc/libvirt")
      : (["/usr/share/qemu/vhost-user", "/etc/qemu/vhost-user"], "/etc/libvirt")
  }

  /// The directories with descriptions of back ends. A file of a later directory replaces its namesake.
  package var descriptionDirectories: [FilePath] { places.descriptions.map { FilePath($0) } }

  // MARK: Back ends

  /// A description of a vhost-user back end by QEMU's conventions (`vhost-user.json`).
  package struct Description: Equatable {
    package let file: FilePath
    /// Nil if the file is not a valid description; libvirt then finds no back end at all.
    package let type: String?
    package let binary: String?
  }

  /// All of them by name, in libvirt's order. One in `/etc` replaces its namesake in `/usr/share`; an empty one only hides
  /// it.
  package func descriptions() -> [Description] {
    var files: [String: FilePath] = [:]
    for directory in places.descriptions.map(place) {
      for name in directoryEntries(directory) where name.hasSuffix(".json") {
        files[name] = directory.appending(name)
      }
    }
    return files.sorted { $0.key < $1.key }.compactMap { _, file in
      let text = (try? readText(file)) ?? ""
      if text.isEmpty { return nil }
      let parsed = try? JSONDecoder().decode(Parsed.self, from: Data(text.utf8))
      return Description(file: file, type: parsed?.type, binary: parsed?.binary)
    }
  }

  private struct Parsed: Decodable { let type, binary: String }

  // MARK: libvirt's configuration

  /// A setting of `qemu.conf`: a string, or the strings of a list; nil if it is not set.
  package func setting(_ name: String) -> [String]? { Self.setting(name, in: text) }

  /// The file of settings.
  package var configuration: FilePath { FilePath(places.configuration + "/qemu.conf") }
  /// Whether it exists.
  package var isConfigured: Bool { isThere(places.configuration + "/qemu.conf") }
  private var text: String { (try? readText(place(configuration.string))) ?? "" }

  private static func setting(_ name: String, in text: String) -> [String]? {
    var value: String?
    for line in text.split(whereSeparator: \.isNewline) {
      let code = line.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false)[0]
      if let open = value {
        if !open.contains("[") || open.contains("]") { break }
        value = open + code
      } else if let equals = code.firstIndex(of: "="),
        code[..<equals].filter({ !$0.isWhitespace }) == name
      {
        value = String(code[code.index(after: equals)...])
      }
    }
    // The texts between quotes of either kind.
    return value.map { value in
      let parts = value.split(omittingEmptySubsequences: false) { $0 == "\"" || $0 == "'" }
      let strings = parts.indices.filter { $0 % 2 == 1 }.map { String(parts[$0]) }
      if !strings.isEmpty || value.contains("[") { return strings }
      return [value.filter { !$0.isWhitespace }]
    }
  }

  /// The user that runs QEMU and its helpers.
  package func account() -> Account? {
    let names = setting("user").map { [$0.first ?? ""] } ?? ["libvirt-qemu", "qemu", "root"]
    for name in names {
      guard let account = Self.account(name) else { continue }
      guard let group = setting("group")?.first, let number = Self.number(group) ?? groupNumber(of: group)
      else {
        return account
      }
      return Account(name: account.name, user: account.user, group: number, groups: account.groups)
    }
    return nil
  }

  private static func account(_ name: String) -> Account? {
    guard let number = number(name) else { return Account(name) }
    return Account(name: name, user: number, group: number)
  }

  /// `+0`, or `0`.
  static func number(_ text: String) -> UInt32? { UInt32(text.drop { $0 == "+" }) }

  /// The devices that a domain's cgroup allows; nil if cgroups do not guard devices.
  package func allowedDevices() -> [String]? {
    if let controllers = setting("cgroup_controllers"), !controllers.contains("devices") { return nil }
    return setting(Self.deviceList) ?? []
  }

  /// The setting with the devices that a domain's cgroup allows.
  package static let deviceList = "cgroup_device_acl"

  /// The set list; otherwise the default in the file's comment; otherwise that of libvirt 9.
  package var deviceListOrDefault: [String] {
    let comments = text.split(separator: "\n").filter { $0.hasPrefix("#") }.map { $0.dropFirst() }
    return setting(Self.deviceList) ?? Self.setting(Self.deviceList, in: comments.joined(separator: "\n"))
      ?? ["null", "full", "zero", "random", "urandom", "ptmx", "userfaultfd"].map { "/dev/" + $0 }
  }

  /// The devices that a domain's helper may not open.
  package func devicesNotAllowed(_ devices: [String]) -> [String] {
    guard let allowed = allowedDevices() else { return [] }
    // The domain's string leads to /dev/udmabuf.
    return devices.filter { !allowed.contains($0) && !(hasHook && $0 == "/dev/udmabuf") }
  }

  /// Whether AppArmor's profile for libvirtd forbids it to start this program.
  package func isRefusedByAppArmor(_ program: FilePath) -> Bool {
    guard (try? readText(place("/sys/module/apparmor/parameters/enabled")))?.hasPrefix("Y") == true else {
      return false
    }
    // Only root can read the kernel's list of profiles, and whether they are enforced.
    let loaded = try? readText(place("/sys/kernel/security/apparmor/profiles"))
    if let loaded, !loaded.split(separator: "\n").contains(where: { $0.hasSuffix("libvirtd (enforce)") }) {
      return false
    }
    let texts = ["usr.sbin.libvirtd", "local/usr.sbin.libvirtd"].compactMap {
      try? readText(place("/etc/apparmor.d/\($0)"))
    }
    // libvirtd may start all programs of these directories.
    let isUsual = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].contains(program.removingLastComponent().string)
    return !texts.isEmpty && !isUsual && !texts.contains { $0.contains(program.string) }
  }

  /// The program to which the hook links.
  package var hookProgram: FilePath? {
    let directory = place(places.configuration + "/hooks/qemu.d")
    let name = directoryEntries(directory).first { $0.contains("udmabridge") }
    return name.flatMap { linkTarget(directory.appending($0)) }.map { FilePath($0) }
  }

  /// Whether the hook is where libvirtd looks for it.
  package var hasHook: Bool {
    directoryEntries(place(places.configuration + "/hooks/qemu.d")).contains { $0.contains("udmabridge") }
  }
}
