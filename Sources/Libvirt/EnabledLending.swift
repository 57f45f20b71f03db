internal import DomainOptions
internal import SystemPackage

/// The buffers that a domain's guest can lend, besides its pictures.
package enum LendingScope: Int, Comparable, Sendable {
  case none
  /// Buffers that its card makes.
  case card
  /// Also buffers of other drivers, by QEMU's generic device.
  case all

  package static func < (one: LendingScope, other: LendingScope) -> Bool { one.rawValue < other.rawValue }
}

/// A second card without a screen, QEMU's generic device.
enum SecondCard: CaseIterable {
  /// Takes buffers of other drivers.
  case lend
  /// Has memory of the host.
  case share

  /// The id of the device and of its connection in QEMU.
  var name: String { self == .lend ? "udmabridge-lend" : "udmabridge-share" }
  /// The helper's option for its socket, and the socket's name in the domain's directory.
  var option: (name: String, value: String) {
    self == .lend
      ? ("lend-socket-path", DomainPlaces.lendingName) : ("share-socket-path", DomainPlaces.sharingName)
  }
}

extension DomainXML {
  /// The generic device of QEMU 10.1 and later.
  package static let genericDevice = "vhost-user-test-device-pci"
  /// The port's name, by which the guest's agent finds it.
  private static let portName = "io.udmabridge.lend.0"
  private static let commandLineNamespace = "http://libvirt.org/schemas/domain/qemu/1.0"

  /// The scope whose parts are all in the definition.
  package var lending: LendingScope {
    if lendingChannel == nil { return .none }
    return arguments(of: .lend).isEmpty ? .card : .all
  }

  /// Whether the guest can have memory of the host.
  package var isSharing: Bool { lendingChannel != nil && !arguments(of: .share).isEmpty }

  /// The socket to which QEMU connects the port.
  package var lendingPort: String? { lendingChannel?.child("source")?["path"] }

  /// The path of QEMU.
  package var emulator: String? { root.descendant("devices", "emulator")?.text }

  private var devices: XMLElement? { root.child("devices") }

  private var lendingChannel: XMLElement? {
    devices?.children("channel").first { $0.child("target")?["name"] == Self.portName }
  }

  private var pciControllers: [XMLElement] {
    (devices?.children("controller") ?? []).filter { $0["type"] == "pci" }
  }

  /// The bus of an address such as `<address type='pci' bus='0x01'/>`.
  private func busNumber(_ address: XMLElement?) -> Int? {
    guard let address, address["type"] == "pci", let bus = address["bus"] else { return nil }
    return bus.hasPrefix("0x") ? Int(bus.dropFirst(2), radix: 16) : Int(bus)
  }

  private var commandLine: XMLElement? {
    root.children.first { $0.name == "commandline" && $0.namespace == Self.commandLineNamespace }
  }

  /// The arguments of a card of ours, each behind the name of its option.
  private func arguments(of card: SecondCard) -> [XMLElement] {
    let all = commandLine?.children.filter { $0.name == "arg" } ?? []
    return zip(all, all.dropFirst()).flatMap { option, value in
      let isOurs = value["value"]?.contains(card.name) == true
      return isOurs && ["-chardev", "-device"].contains(option["value"]) ? [option, value] : []
    }
  }

  /// Words of the record for the parts that were added.
  private enum Part: String {
    case channel, controller, device, sharing, commandline

    init(_ card: SecondCard) { self = card == .lend ? .device : .sharing }
  }

  private func note(_ parts: Part..., in record: XMLElement) {
    let words = [record["lending"]].compactMap(\.self) + parts.map(\.rawValue)
    record["lending"] = words.joined(separator: " ")
  }

  /// Adds the missing parts, and changes no existing one.
  func enableLending(
    _ scope: LendingScope, isSharing: Bool, _ places: DomainPlaces,
    makeRecord: () throws(XMLError) -> XMLElement
  ) throws(XMLError) {
    if lendingChannel == nil {
      // Without a controller libvirt adds one.
      let hasController = devices?.children("controller").contains { $0["type"] == "virtio-serial" } == true
      let needsOne = devices?.children("channel").contains { $0.child("target")?["type"] == "virtio" } == true
      let record = try makeRecord()
      note(.channel, in: record)
      if !hasController, !needsOne {
        note(.controller, in: record)
        record["ports"] = "\(pciControllers.count)"
      }
      let channel = try document.make(
        """
        <channel type='unix'><source mode='connect'><reconnect enabled='yes' timeout='1'/></source>\
        <target type='virtio' name='\(Self.portName)'/></channel>
        """)
      channel.child("source")?["path"] = places.port.string
      appendDevice(channel)
    }
    for (card, socket) in [
      (SecondCard.lend, scope == .all ? places.lending : nil), (.share, isSharing ? places.sharing : nil),
    ] {
      guard let socket, arguments(of: card).isEmpty else { continue }
      let record = try makeRecord()
      note(Part(card), in: record)
      // A comma ends a value in QEMU's options. The text needs no escape in XML.
      let path = socket.string.replacing(",", with: ",,")
      // In JSON, because QEMU makes devices of another form before libvirt's, and would give this one a place of theirs.
      let device =
        #"{"driver":"\#(Self.genericDevice)","id":"\#(card.name)","chardev":"\#(card.name)","virtio-id":16,"num_vqs":2,"vq_size":256,"config_size":20}"#
      let words = ["-chardev", "socket,id=\(card.name),path=\(path)", "-device", device]
      let arguments = words.map { "<qemu:arg value='\($0)'/>" }.joined()
      let new = try document.make(
        "<qemu:commandline xmlns:qemu='\(Self.commandLineNamespace)'>\(arguments)</qemu:commandline>")
      if let commandLine {
        for argument in new.children { commandLine.append(argument.copy(for: document)) }
      } else {
        note(.commandline, in: record)
        root.append(new)
      }
    }
  }

  /// The options that the helper needs for the parts, without those that `options` has.
  static func options(
    for scope: LendingScope, isSharing: Bool, beside options: [DomainOption]
  ) -> [DomainOption] {
    let cards = (scope == .all ? [SecondCard.lend] : []) + (isSharing ? [.share] : [])
    let wanted = [("port", DomainPlaces.portName)] + cards.map(\.option)
    return wanted.compactMap { try? DomainOption($0, $1) }.filter { option in
      !options.contains { $0.name == option.name }
    }
  }

  /// Removes the parts that `enableLending` added.
  func disableLending(_ record: XMLElement) {
    let parts = Set((record["lending"] ?? "").split(separator: " ").compactMap { Part(rawValue: String($0)) })
    if parts.contains(.channel) { lendingChannel?.remove() }
    let hasOther = devices?.children.contains { $0.child("target")?["type"] == "virtio" } == true
    if parts.contains(.controller), !hasOther {
      for controller in devices?.children("controller") ?? [] where controller["type"] == "virtio-serial" {
        controller.remove()
      }
      // The PCI Express port of the card goes too.
      let used = Set((devices?.children ?? []).compactMap { busNumber($0.child("address")) })
      for port in pciControllers where port["model"] == "pcie-root-port" {
        guard let index = port["index"].flatMap({ Int($0) }), let first = record["ports"].flatMap({ Int($0) })
        else { continue }
        if index >= first, !used.contains(index) { port.remove() }
      }
    }
    for card in SecondCard.allCases where parts.contains(Part(card)) {
      for argument in arguments(of: card) { argument.remove() }
    }
    if parts.contains(.commandline), let commandLine, commandLine.isEmpty { commandLine.remove() }
  }
}
