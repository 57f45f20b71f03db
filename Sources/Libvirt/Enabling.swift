package import DomainOptions

/// The record of `enable` in a domain's metadata: the state before.
enum EnablingRecord {
  static let namespace = "urn:udmabridge:domain"
  static let empty = "<udmabridge:before xmlns:udmabridge=\"\(namespace)\"/>"
  /// The value of the attribute `video` if the domain already had a video of ours, made by hand.
  static let own = "own"
}

extension DomainXML {
  /// Makes the domain one of ours. Parts that fit already stay as they are; enabling twice changes nothing more.
  ///
  /// - Parameters:
  ///   - options: for its helper; nil keeps its options.
  ///   - removingGraphics: whether graphics that keep QEMU from starting are removed; `disable` puts them back.
  ///   - lending: the buffers that the guest can lend at least, besides its pictures.
  ///   - sharing: whether the guest can have memory of the host.
  /// - Throws: `refused`, without any change, if the domain still could not start.
  package func enable(
    options: [DomainOption]? = nil, removingGraphics: Bool = false, lending wanted: LendingScope = .none,
    sharing: Bool = false
  ) throws(LibvirtError) {
    guard let name else { throw .noName }
    let refused = problems.filter { problem in
      if case .graphics = problem { return !removingGraphics }
      return !problem.isMendable
    }
    if !refused.isEmpty { throw .refused(refused) }
    let closed = removingGraphics ? graphicsWithoutGL : []
    if let secret = closed.first(where: { $0["passwd"] != nil }) {
      throw .secret("graphics of type \(Self.kind(of: secret))")
    }
    // An unreadable string is replaced.
    let known = options == nil ? (try? reference())?.options : nil
    var chosen = known ?? withStartSize(options ?? defaultOptions)
    let scope = max(wanted, lending)
    if scope > .none || sharing {
      chosen += Self.options(for: scope, isSharing: sharing || isSharing, beside: chosen)
    }
    let reference = DomainReference(domain: name, options: chosen)
    do throws(DomainError) { _ = try DomainReference("\(reference)") } catch { throw .reference(error) }
    do throws(XMLError) {
      try enableMemory()
      try enableVideo(reference)
      try enableGraphics(closed)
      if wanted > .none || sharing {
        guard let places = try? DomainPlaces(name) else { preconditionFailure("the reference was read") }
        try enableLending(wanted, isSharing: sharing, places, makeRecord: makeRecord)
      }
    } catch { throw .xml(error) }
  }

  /// If the domain has a window of QEMU, that window shows the guest, drawn by the card that the domain names for it.
  private var defaultOptions: [DomainOption] {
    let windows = (root.child("devices")?.children("graphics") ?? []).filter { graphics in
      ["spice", "sdl", "dbus"].contains(graphics["type"]) && graphics.child("gl")?["enable"] == "yes"
    }
    if windows.isEmpty { return [] }
    let node = windows.lazy.compactMap { $0.child("gl")?["rendernode"] }.first
    return [try? DomainOption("display", "qemu"), node.flatMap { try? DomainOption("stride-alignment", $0) }]
      .compactMap(\.self)
  }

  /// Keeps the video's size as the starting size, if no other is chosen. Not for QEMU's display: libvirt gives it the size,
  /// and it follows its window; the option would make this size the only one.
  private func withStartSize(_ options: [DomainOption]) -> [DomainOption] {
    let size = (record?.child("video") ?? video)?.descendant("model", "resolution")
    // Only a size that the helper accepts.
    guard
      !options.contains(where: { $0.name == "resolution" || ($0.name == "display" && $0.value == "qemu") }),
      let width = size?["x"].flatMap(UInt32.init), (64...16384).contains(width),
      let height = size?["y"].flatMap(UInt32.init), (64...16384).contains(height),
      let option = try? DomainOption("resolution", "\(width)x\(height)")
    else { return options }
    return options + [option]
  }

  /// The record, which exists only if something was changed.
  private func makeRecord() throws(XMLError) -> XMLElement {
    if let record { return record }
    let hasOwnVideo = ownVideo != nil
    let metadata: XMLElement
    if let there = root.child("metadata") {
      metadata = there
    } else {
      metadata = try document.make("<metadata/>")
      insert(metadata, behind: ["name", "uuid", "genid", "title", "description"])
    }
    metadata.append(try document.make(EnablingRecord.empty))
    guard let record else { preconditionFailure("it was put there") }
    if hasOwnVideo { record["video"] = EnablingRecord.own }
    return record
  }

  private func enableMemory() throws(XMLError) {
    if root.child("memoryBacking") == nil {
      insert(
        try document.make("<memoryBacking/>"),
        behind: ["memory", "currentMemory", "blkiotune", "memtune"])
    }
    guard let backing = root.child("memoryBacking") else { preconditionFailure("it was put there") }
    let cells = root.descendant("cpu", "numa")?.children("cell") ?? []
    let isShared = !cells.isEmpty && cells.allSatisfy { $0["memAccess"] == "shared" }
    let wanted = [("source", "type", "memfd")] + (isShared ? [] : [("access", "mode", "shared")])
    for (name, attribute, value) in wanted {
      let old = backing.child(name)?[attribute]
      if old == value { continue }
      let record = try makeRecord()
      if record[name] == nil { record[name] = old ?? "" }
      if backing.child(name) == nil { backing.append(try document.make("<\(name)/>")) }
      backing.child(name)?[attribute] = value
    }
  }

  private func enableVideo(_ reference: DomainReference) throws(XMLError) {
    let new = try document.make("<video><driver name='vhostuser'/><model type='virtio'/></video>")
    if let ownVideo {
      // Equal settings stay as they were written.
      if (try? self.reference()) != reference {
        ownVideo.descendant("model", "acceleration")?["rendernode"] = "\(reference)"
      }
      for attribute in lackingFeatures {
        try makeRecord()[attribute] = "on"
        ownVideo.child("driver")?[attribute] = nil
      }
      return
    }
    // An earlier record of the video is outdated: somebody has replaced or removed the video since.
    let record = try makeRecord()
    record["video"] = nil
    record.child("video")?.remove()
    let old = video
    guard let model = new.child("model") else { preconditionFailure("it is there") }
    model["heads"] = old?.child("model")?["heads"] ?? "1"
    model["primary"] = old?.child("model")?["primary"]
    let acceleration = try document.make("<acceleration/>")
    acceleration["rendernode"] = "\(reference)"
    model.append(acceleration)
    if let size = old?.descendant("model", "resolution") { model.append(size.copy(for: document)) }
    guard let old else { return appendDevice(new) }
    // The video keeps the address that the guest knows.
    for name in old.child("model")?["type"] == "none" ? [] : ["alias", "address"] {
      if let kept = old.child(name) { new.append(kept.copy(for: document)) }
    }
    record.append(old.copy(for: document))
    old.insertBefore(new)
    old.remove()
  }

  private func enableGraphics(_ closed: [XMLElement]) throws(XMLError) {
    if closed.isEmpty { return }
    let record = try makeRecord()
    // Without SPICE libvirt refuses the devices that need it.
    let devices = root.child("devices")?.children ?? []
    let withSpice = devices.contains { $0.name == "graphics" && $0["type"] == "spice" }
    let losesSpice =
      withSpice
      && !devices.contains {
        $0.name == "graphics" && $0["type"] == "spice" && $0.child("gl")?["enable"] == "yes"
      }
    let orphans =
      losesSpice
      ? devices.filter { $0["type"] == "spicevmc" || $0.name == "audio" && $0["type"] == "spice" } : []
    for element in closed + orphans {
      record.append(element.copy(for: document))
      if element.name == "audio" {
        // A sound device may refer to it, and libvirt would make such an element itself.
        let silent = try document.make("<audio type='none'/>")
        silent["id"] = element["id"]
        element.insertBefore(silent)
      }
      element.remove()
    }
  }

  /// Undoes `enable`. A domain that is not ours stays as it is.
  package func disable() throws(LibvirtError) {
    do throws(XMLError) { try restore() } catch { throw .xml(error) }
  }

  private func restore() throws(XMLError) {
    let record = record
    if let own = ownVideo {
      if let before = record?.child("video") {
        own.insertBefore(before.copy(for: document))
        own.remove()
      } else if let record, record["video"] != EnablingRecord.own {
        own.remove()
      } else {
        // A device made by hand stays, with QEMU's own back end.
        own.child("driver")?["name"] = nil
        for attribute in DomainProblem.features.keys where record?[attribute] != nil {
          own.child("driver")?[attribute] = record?[attribute]
        }
        if own.child("driver")?.hasAttributes == false { own.child("driver")?.remove() }
        own.descendant("model", "acceleration")?.remove()
      }
    }
    guard let record else { return }
    for element in record.children where element.namespace == nil && element.name != "video" {
      let device = element.copy(for: document)
      let silent = root.child("devices")?.children("audio").first { $0["id"] == device["id"] }
      if device.name == "audio", let silent {
        silent.insertBefore(device)
        silent.remove()
      } else {
        appendDevice(device)
      }
    }
    disableLending(record)
    if let backing = root.child("memoryBacking") {
      for (name, attribute, value) in [("source", "type", "memfd"), ("access", "mode", "shared")] {
        guard let before = record[name], let element = backing.child(name), element[attribute] == value else {
          continue
        }
        element[attribute] = before.isEmpty ? nil : before
        if !element.hasAttributes, element.isEmpty { element.remove() }
      }
      if backing.isEmpty, !backing.hasAttributes { backing.remove() }
    }
    record.remove()
    if let metadata = root.child("metadata"), metadata.isEmpty { metadata.remove() }
  }

  /// Inserts an element behind the last one of these names in the domain.
  private func insert(_ element: XMLElement, behind names: [String]) {
    if let last = root.children.last(where: { names.contains($0.name) }) {
      last.insertAfter(element)
    } else {
      root.append(element)
    }
  }

  /// Inserts a device behind those of its kind, or behind all others.
  func appendDevice(_ device: XMLElement) {
    guard let devices = root.child("devices") else {
      guard let devices = try? document.make("<devices/>") else { return }
      root.append(devices)
      return appendDevice(device)
    }
    if let last = devices.children(device.name).last {
      last.insertAfter(device)
    } else {
      devices.append(device)
    }
  }
}
