internal import DomainOptions

/// A problem in a domain's definition: with it a guest's pages cannot be lent, or QEMU does not start.
package enum DomainProblem: Equatable, Sendable, CustomStringConvertible {
  /// A domain of Xen, LXC and the like.
  case type(String)
  /// A machine whose virtio devices are not on PCI.
  case noPCI(String)
  /// Only the guest can read its memory: SEV, SNP, TDX and the like.
  case encrypted(String)
  case memorySource(String?)
  case memoryAccess(String?)
  /// A NUMA cell with an access setting of its own.
  case cellAccess(String)
  /// A DIMM or another memory device of that model, with an access setting of its own.
  case deviceAccess(String)
  case video(String?)
  case acceleration
  /// An attribute of the video's driver that gives the guest a virtio feature which the helper lacks.
  case feature(String)
  case reference(String)
  /// The domain's name is too long for the names of its files.
  case nameTooLong(String)
  case otherDomain(String, own: String)
  /// A graphics element that demands a display without GL.
  case graphics(String)

  /// The kind of the problem, in a word.
  package var name: String {
    switch self {
    case .type: "type"
    case .noPCI: "machine"
    case .encrypted: "encryption"
    case .memorySource: "memory"
    case .memoryAccess, .cellAccess, .deviceAccess: "access"
    case .video: "video"
    case .feature: "features"
    case .acceleration, .reference, .nameTooLong, .otherDomain: "parameters"
    case .graphics: "graphics"
    }
  }

  /// Whether `enable` mends it.
  package var isMendable: Bool {
    switch self {
    case .type, .noPCI, .encrypted, .cellAccess, .deviceAccess, .graphics, .nameTooLong: false
    default: true
    }
  }

  package var description: String {
    switch self {
    case .type(let type): "a domain of type \(type) has no QEMU"
    case .noPCI(let machine):
      "virtio devices of \(machine) are not on PCI (but on ccw, mmio or the like), but QEMU has vhost-user GPUs only for PCI"
    case .encrypted(let type):
      "the guest's memory is encrypted (launchSecurity of type \(type)): the host cannot read its pages"
    case .memorySource(let type):
      "the guest's memory is " + (type.map { "of source \($0)" } ?? "QEMU's own") + ", not of a memfd"
    case .memoryAccess(let mode): "the guest's memory is \(mode ?? "private"), so no helper can map it"
    case .cellAccess(let cell): "NUMA cell \(cell) has private memory"
    case .deviceAccess(let model):
      "memory of model \(model) is private: the helper would see other bytes in it than the guest"
    case .video(let model):
      model.map { "the first video device is \($0), without a back end of its own" }
        ?? "there is no video device"
    case .acceleration:
      "<acceleration> of the video names no render node: libvirt chooses one itself, and the helper does not learn "
        + "which domain it serves"
    case .feature(let attribute):
      "\(attribute)='on' in the video's <driver>: QEMU offers the guest \(Self.features[attribute] ?? attribute), which the "
        + "helper lacks, so the guest's driver would fail"
    case .reference(let why), .nameTooLong(let why): why
    case .otherDomain(let name, let own): "the video is for a domain called \(name), but this one is \(own)"
    case .graphics(let type): "graphics of type \(type) cannot show a dma-buf: QEMU would end at once"
    }
  }

  /// Attributes of a video's driver, and the features which they give and the helper lacks.
  static let features = ["iommu": "VIRTIO_F_ACCESS_PLATFORM", "packed": "VIRTIO_F_RING_PACKED"]
}

extension DomainXML {
  /// The problems, in the order of the definition.
  package var problems: [DomainProblem] {
    var found: [DomainProblem] = []
    let type = root["type"] ?? ""
    if type != "kvm", type != "qemu" { found.append(.type(type)) }
    if let machine = machineWithoutPCI { found.append(.noPCI(machine)) }
    if let security = root.child("launchSecurity") { found.append(.encrypted(security["type"] ?? "unknown")) }
    let backing = root.child("memoryBacking")
    let source = backing?.child("source")?["type"]
    if source != "memfd" { found.append(.memorySource(source)) }
    found += accessProblems(backing?.child("access")?["mode"])
    do throws(DomainError) {
      if let name { _ = try DomainPlaces(name) }
      found += videoProblems
    } catch { found.append(.nameTooLong("\(error)")) }
    for graphics in graphicsWithoutGL { found.append(.graphics(Self.kind(of: graphics))) }
    return found
  }

  private var machineWithoutPCI: String? {
    let type = root.descendant("os", "type")
    let (architecture, machine) = (type?["arch"] ?? "", type?["machine"] ?? "")
    let address = (ownVideo ?? video)?.child("address")?["type"] ?? "pci"
    guard
      architecture.hasPrefix("s390") || ["microvm", "isapc"].contains(machine)
        || ["ccw", "virtio-mmio"].contains(address)
    else { return nil }
    return [machine, architecture].filter { !$0.isEmpty }.joined(separator: " of ")
  }

  private func accessProblems(_ mode: String?) -> [DomainProblem] {
    let cells = root.descendant("cpu", "numa")?.children("cell") ?? []
    // Each device may have a setting of its own.
    let devices = (root.child("devices")?.children("memory") ?? []).filter {
      ($0["access"] ?? "shared") != "shared"
    }.map { DomainProblem.deviceAccess($0["model"] ?? "unknown") }
    // Each cell may have one too.
    if !cells.isEmpty, cells.allSatisfy({ $0["memAccess"] == "shared" }) { return devices }
    let closed = cells.filter { ($0["memAccess"] ?? "shared") != "shared" }
    return closed.map { .cellAccess($0["id"] ?? "?") } + (mode == "shared" ? [] : [.memoryAccess(mode)])
      + devices
  }

  private var videoProblems: [DomainProblem] {
    guard let video = ownVideo ?? video else { return [.video(nil)] }
    guard video.child("driver")?["name"] == "vhostuser", video.child("model")?["type"] == "virtio" else {
      return [.video(video.child("model")?["type"] ?? "of no type")]
    }
    return lackingFeatures.map { .feature($0) } + referenceProblems(video)
  }

  /// The features that our video's driver asks for, and that the helper lacks.
  var lackingFeatures: [String] {
    let driver = (ownVideo ?? video)?.child("driver")
    return DomainProblem.features.keys.sorted().filter { driver?[$0] == "on" }
  }

  private func referenceProblems(_ video: XMLElement) -> [DomainProblem] {
    guard let text = video.descendant("model", "acceleration")?["rendernode"],
      DomainReference.isMeant(by: text)
    else { return [.acceleration] }
    do throws(DomainError) {
      let reference = try DomainReference(text)
      if let name, reference.domain != name { return [.otherDomain(reference.domain, own: name)] }
    } catch { return [.reference("\(error)")] }
    return []
  }

  /// The graphics with which QEMU does not start, because a vhost-user GPU needs displays that take dma-bufs.
  var graphicsWithoutGL: [XMLElement] {
    (root.child("devices")?.children("graphics") ?? []).filter { graphics in
      switch graphics["type"] {
      case "egl-headless": false
      case "spice", "sdl", "dbus": graphics.child("gl")?["enable"] != "yes"
      default: true
      }
    }
  }

  static func kind(of graphics: XMLElement) -> String {
    let type = graphics["type"] ?? "unknown"
    return ["spice", "sdl", "dbus"].contains(type) ? "\(type) without GL" : type
  }
}
