import Libvirt
import Linux
import SystemPackage
import Udmabuf

/// An obstacle on a host, and the changes that remove it.
struct Remedy: Equatable {
  let name: String
  /// The obstacle.
  let what: String
  /// The changes, in this order.
  let changes: [Change]
  /// What the user has to do afterwards.
  var after: String?

  var text: String {
    let indent = "\n" + String(repeating: " ", count: 9)
    let lines = changes.flatMap { $0.description.split(separator: "\n").map(String.init) }
    let title = name + String(repeating: " ", count: max(9 - name.count, 1)) + what
    return title + lines.map { indent + $0 }.joined()
      + (after.map { "\(indent)then: \($0)" } ?? "")
  }
}

/// Finds everything on a host that needs mending.
struct Remedies {
  let host: ChangedHost
  /// The user who is to use the devices.
  let user: Account?
  /// Whether the user is to use the cards too. systemd-logind already lets the user at the seat use them.
  var usesCards = false
  /// The group that may use udmabuf, if the system names none. systemd has the same.
  var deviceGroup = "kvm"

  /// Those that are needed.
  var needed: [Remedy] {
    [limits, device, groups, cgroup, debugfs].compactMap(\.self).filter { !$0.changes.isEmpty }
  }

  // MARK: udmabuf

  /// The ranges that a list may have: enough for 64 MiB of scattered pages. That is the kernel's other limit.
  static let listLimit: UInt64 = 16384

  private var limits: Remedy? {
    let path = UdmabufLimits.directory.appending("list_limit").string
    guard let text = host.text(path), let now = UInt64(text.prefix { $0.isNumber }) else { return nil }
    var changes: [Change] = []
    if now < Self.listLimit { changes.append(.value(path, new: "\(Self.listLimit)", old: "\(now)")) }
    let words = (host.text("/proc/cmdline") ?? "").split(whereSeparator: \.isWhitespace)
    let isSetAtBoot =
      words.contains { $0.hasPrefix("udmabuf.list_limit=") } || host.mentions("tmpfiles.d", [path])
    if !isSetAtBoot {
      changes += file(
        "/etc/tmpfiles.d/udmabridge-limits.conf",
        "# Of udmabridge doctor --mend: how many ranges one udmabuf may have.\nw- \(path) - - - - \(Self.listLimit)\n"
      )
    }
    return Remedy(
      name: "limits",
      what: now < Self.listLimit
        ? "the kernel lends at most \(now) ranges at once; a desktop's buffers have thousands, and are copied"
        : "the kernel lends \(now) ranges at once, but only 1024 after the next boot",
      changes: changes,
      after: host.isThere("/run/systemd/system") || isSetAtBoot
        ? nil : "without systemd-tmpfiles, udmabuf.list_limit=\(Self.listLimit) on the kernel's command line")
  }

  /// A new file, and its missing directories.
  private func file(_ path: String, _ text: String) -> [Change] {
    var missing: [Change] = []
    var directory = FilePath(path).removingLastComponent()
    while !host.isThere(directory.string), directory != "/" {
      missing.insert(.directory(directory.string), at: 0)
      directory = directory.removingLastComponent()
    }
    // An existing file or link belongs to somebody, and is not touched.
    return host.isThere(path) ? [] : missing + [.file(path, text: text)]
  }

  private static let udmabuf = UdmabufDevice.path.string

  /// Without a rule of the system, only root may use the device.
  private var device: Remedy? {
    guard let access = try? FileAccess(of: host.place(Self.udmabuf)), usableGroup(access) == nil,
      access.mode & 0o006 != 0o006, let group = groupNumber(of: deviceGroup)
    else { return nil }
    let rule = "SUBSYSTEM==\"misc\", KERNEL==\"udmabuf\", GROUP=\"\(deviceGroup)\", MODE=\"0660\"\n"
    return Remedy(
      name: "device", what: "only root may use \(Self.udmabuf)",
      changes: [
        .access(
          Self.udmabuf, new: .init(group: group, mode: 0o660),
          old: .init(group: access.group, mode: access.mode))
      ]
        // systemd's rule for the device names no group.
        + (host.mentions("udev/rules.d", ["udmabuf", "GROUP"])
          ? []
          : file("/etc/udev/rules.d/60-udmabridge-device.rules", "# Of udmabridge doctor --mend.\n" + rule)))
  }

  /// A group whose members may use a device. The group root does not count.
  private func usableGroup(_ access: FileAccess) -> UInt32? {
    access.mode & 0o060 == 0o060 && access.group != 0 ? access.group : nil
  }

  // MARK: Users

  private var cards: [String] {
    directoryEntries(host.place("/dev/dri")).filter { $0.hasPrefix("card") }.map { "/dev/dri/\($0)" }
  }

  private var groups: Remedy? {
    let files = HostFiles(root: host.root)
    let wanted =
      (user.map { [($0, [Self.udmabuf, "/dev/kvm"] + (usesCards ? cards : []))] } ?? [])
      + (files.isConfigured ? files.account().map { [($0, [Self.udmabuf])] } ?? [] : [])
    let changes = wanted.flatMap { account, devices in missingGroups(account, devices) }
    let names = wanted.map(\.0).filter { account in
      changes.contains { if case .member(account.name, _) = $0 { true } else { false } }
    }.map(\.name)
    return Remedy(
      name: "groups",
      what: "\(names.joined(separator: " and ")) may not use the devices that lend guests' memory",
      changes: changes, after: "log in anew; restart libvirtd")
  }

  /// None for a user or group without a name, for which gpasswd would be given a number.
  private func missingGroups(_ account: Account, _ devices: [String]) -> [Change] {
    if UInt32(account.name.drop { $0 == "+" }) != nil { return [] }
    var groups: [UInt32] = []
    for device in devices {
      guard let access = try? FileAccess(of: host.place(device)), !access.allowsWriting(account) else {
        continue
      }
      guard let group = usableGroup(access) ?? (device == Self.udmabuf ? groupNumber(of: deviceGroup) : nil),
        !account.groups.contains(group), !groups.contains(group), groupNumber(of: groupName(of: group)) != nil
      else { continue }
      groups.append(group)
    }
    return groups.map { .member(account.name, group: groupName(of: $0)) }
  }

  // MARK: libvirt and the kernel's list

  private var cgroup: Remedy? {
    let files = HostFiles(root: host.root)
    guard files.isConfigured, let account = files.account() else { return nil }
    // The helper cannot use a card that QEMU's user may not use.
    let usable = cards.filter { (try? FileAccess(of: host.place($0)))?.allowsWriting(account) == true }
    let missing = files.devicesNotAllowed([Self.udmabuf] + usable)
    return Remedy(
      name: "cgroup",
      what: "libvirt keeps its guests' helpers from opening \(missing.joined(separator: " and "))",
      changes: missing.isEmpty
        ? []
        : [
          .setting(
            files.configuration.string, name: HostFiles.deviceList,
            values: files.deviceListOrDefault + missing)
        ], after: "restart libvirtd")
  }

  private var debugfs: Remedy? {
    let place = "/sys/kernel/debug"
    guard host.isThere(place), host.isMounted("debugfs", place) != true else { return nil }
    return Remedy(
      name: "debugfs", what: "udmabridge list cannot see the dma-bufs that only the kernel holds",
      changes: [.mount("debugfs", place: place)])
  }
}
