import DomainOptions
import Linux
import Testing

@testable import Libvirt
@testable import udmabridge

/// What stands against a domain, and what enabling and disabling make of its definition.
@Suite struct DomainTests {
  @Test(
    "each sample definition has the problems that it should have, with remedies", arguments: DomainCase.all)
  func problems(_ sample: DomainCase) throws {
    let problems = try DomainXML(sample.definition.text).problems
    #expect(problems == sample.problems)
    for problem in problems { #expect(!problem.description.isEmpty && !problem.remedy.isEmpty) }
  }

  static let enabled: [(name: String, definition: Definition)] = [
    ("plain", Definition()),
    ("with huge pages", Definition(backing: "<memoryBacking><hugepages/></memoryBacking>")),
    (
      "shared files",
      Definition(backing: "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>")
    ),
    ("no video", Definition(devices: "")),
    ("video none", Definition(devices: "<video><model type='none'/></video>")),
    ("a name of many kinds", Definition(name: "a &amp; b; c=d?e%20")),
    ("two videos", Definition(devices: Definition.vga + "<video><model type='qxl' heads='1'/></video>")),
    ("virtio", Definition(devices: "<video><model type='virtio' heads='4'/></video>")),
    (
      "a back end of somebody else",
      Definition(
        devices:
          "<video><driver name='vhostuser'/><model type='virtio'><acceleration accel3d='yes'/></model></video>"
      )
    ),
    ("nodes that share", Definition(cpu: "<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu>")),
  ]

  @Test(
    "a definition is enabled without a problem, twice without a change, and disabled as it was",
    arguments: enabled.indices)
  func enable(_ index: Int) throws {
    let (name, definition) = Self.enabled[index]
    let domain = try DomainXML(definition.text)
    let before = domain.text
    try domain.enable(options: [DomainOption("kms", "auto")])
    #expect(domain.problems == [], "\(name)")
    #expect(domain.isOurs && DomainXML.mayBeOurs(Array(domain.text.utf8)))
    #expect(domain.text.contains("<!-- kept -->"))
    let reference = try #require(try domain.reference())
    #expect(reference.domain == domain.name)
    #expect(reference.options == [try DomainOption("kms", "auto")])

    let once = domain.text
    try domain.enable()
    #expect(domain.text == once, "\(name)")
    let read = try DomainXML(once)
    try read.enable()
    #expect(read.text == once, "\(name)")

    try read.disable()
    #expect(canonical(read.text) == canonical(before), "\(name)")
    let plain = read.text
    try read.disable()
    #expect(read.text == plain)
  }

  static let lending: [(name: String, definition: Definition)] = [
    ("plain", Definition()),
    ("enabled", DomainCase.ready),
    (
      "with a channel",
      Definition(
        devices: Definition.vga + """
          <controller type='virtio-serial' index='0'/>
          <channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
          """)
    ),
    ("a name of many kinds", Definition(name: "a &amp; b, c")),
  ]

  @Test(
    "enabling with lending adds a port, and a card for any buffer; disabling removes them",
    arguments: lending.indices, [LendingScope.card, .all])
  func enableLending(_ index: Int, _ scope: LendingScope) throws {
    let (name, definition) = Self.lending[index]
    let domain = try DomainXML(definition.text)
    let before = domain.text
    try domain.enable(options: [DomainOption("kms", "auto")], lending: scope)
    #expect(domain.lending == scope && domain.problems == [], "\(name)")
    let places = try DomainPlaces(try #require(domain.name))
    #expect(domain.lendingPort == "\(places.directory)/port")
    let options = try #require(try domain.reference()).options.map { "\($0.name)=\($0.value)" }
    #expect(options == ["kms=auto", "port=port"] + (scope == .all ? ["lend-socket-path=lend"] : []))
    let words = domain.root.children.filter { $0.name == "commandline" }.flatMap(\.children).compactMap {
      $0["value"]
    }
    #expect(
      words.count == (scope == .all ? 4 : 0) && words.filter { $0.hasPrefix("-") }.count == words.count / 2)
    if scope == .all {
      #expect(words[1].hasSuffix("path=" + "\(places.directory)/lend".replacing(",", with: ",,")))
    }

    // Without the flag it stays, and other options do not take it away.
    let once = domain.text
    for lending in [LendingScope.none, scope] {
      let read = try DomainXML(once)
      try read.enable(lending: lending)
      #expect(read.text == once, "\(name)")
    }
    try domain.enable(options: [DomainOption("cursor", "off")])
    #expect(
      try domain.reference()?.options.map(\.name) == ["cursor"]
        + options.dropFirst().map { String($0.prefix { $0 != "=" }) })

    // libvirt puts in a controller for the channel.
    if !definition.devices.contains("virtio-serial") {
      for controller in [
        "type='virtio-serial' index='0'><address type='pci' bus='0x01'/>",
        "type='pci' index='1' model='pcie-root-port'>",
        "type='pci' index='2' model='pcie-root-port'>",
      ] { domain.appendDevice(try domain.document.make("<controller \(controller)</controller>")) }
    }
    try domain.disable()
    if name == "enabled" {
      // Made by hand: the device stays.
      #expect(domain.lending == .none && domain.record == nil)
      #expect(!domain.text.contains("virtio-serial") && !domain.text.contains("commandline"))
      #expect(!domain.text.contains("pcie-root-port"))
    } else {
      #expect(canonical(domain.text) == canonical(before), "\(name)")
    }
  }

  @Test(
    "enabling with sharing adds a card for the host's memory; disabling removes it",
    arguments: [true, false])
  func enableSharing(_ lends: Bool) throws {
    let domain = try DomainXML(Definition().text)
    let before = domain.text
    try domain.enable(options: [], lending: lends ? .all : .none, sharing: true)
    #expect(domain.isSharing && domain.lending == (lends ? .all : .card) && domain.problems == [])
    func options() throws -> [String] {
      try #require(try domain.reference()).options.map { "\($0.name)=\($0.value)" }
    }
    let wanted = ["port=port"] + (lends ? ["lend-socket-path=lend"] : []) + ["share-socket-path=share"]
    #expect(try options() == wanted)
    let places = try DomainPlaces(try #require(domain.name))
    let words = domain.root.children.filter { $0.name == "commandline" }.flatMap(\.children).compactMap {
      $0["value"]
    }
    #expect(words.count == (lends ? 8 : 4))
    #expect(words.contains("socket,id=udmabridge-share,path=\(places.directory)/share"))
    let once = domain.text
    for sharing in [true, false] {
      try domain.enable(sharing: sharing)
      #expect(domain.text == once, "it stays without the flag")
    }
    try domain.enable(options: [DomainOption("cursor", "off")])
    #expect(try options() == ["cursor=off"] + wanted)
    for controller in [
      "type='virtio-serial' index='0'><address type='pci' bus='0x01'/>",
      "type='pci' index='1' model='pcie-root-port'>",
    ] { domain.appendDevice(try domain.document.make("<controller \(controller)</controller>")) }
    try domain.disable()
    #expect(canonical(domain.text) == canonical(before) && !domain.isSharing)
  }

  @Test("a port that was made by hand, and other arguments of QEMU, stay")
  func lendingByHand() throws {
    var definition = Definition()
    definition.devices += """
      <channel type='unix'><source mode='connect' path='/run/udmabridge/web/port'/>
          <target type='virtio' name='io.udmabridge.lend.0'/></channel>
      """
    let text = definition.text
      .replacing("<domain ", with: "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ")
      .replacing(
        "</domain>",
        with:
          "<qemu:commandline><qemu:arg value='-sandbox'/><qemu:arg value='on'/></qemu:commandline></domain>")
    let domain = try DomainXML(text)
    #expect(domain.lending == .card)
    let before = domain.text
    try domain.enable(lending: .all)
    #expect(domain.lending == .all)
    try domain.disable()
    #expect(canonical(domain.text) == canonical(before))
  }

  /// Without the white space between elements.
  private func canonical(_ text: String) -> String {
    text.split(separator: "\n").map { line in String(line.drop { $0 == " " }) }.joined()
      .replacing("> <", with: "><")
  }

  @Test("a video keeps its address, and its other properties come back")
  func video() throws {
    let domain = try DomainXML(Definition().text)
    try domain.enable()
    let video = try #require(domain.ownVideo)
    #expect(video.child("address")?["slot"] == "0x01")
    #expect(video.child("model")?["primary"] == "yes" && video.child("model")?["vram"] == nil)
    try domain.disable()
    #expect(domain.video?.child("model")?["vram"] == "16384")
    #expect(!domain.isOurs)
  }

  @Test("graphics that cannot be are refused, or removed with what needs them, and come back")
  func graphics() throws {
    var definition = Definition()
    definition.devices += """
      <graphics type='spice' autoport='yes'><image compression='off'/></graphics>
          <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
          <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
          <audio id='1' type='spice'/>
      """
    let domain = try DomainXML(definition.text)
    let before = domain.text
    #expect(throws: LibvirtError.refused([.graphics("spice without GL")])) { try domain.enable() }
    #expect(domain.text == before, "what is refused is not changed")
    try domain.enable(removingGraphics: true)
    #expect(domain.problems == [])
    let devices = try #require(domain.root.child("devices"))
    #expect(devices.children("graphics").isEmpty)
    #expect(devices.children("audio").map { $0["type"] } == ["none"])
    #expect(devices.children("channel").map { $0["type"] } == ["unix"])
    try domain.disable()
    let restored = try #require(domain.root.child("devices"))
    #expect(restored.child("graphics")?.descendant("image")?["compression"] == "off")
    #expect(Set(restored.children("channel").map { $0["type"] ?? "" }) == ["unix", "spicevmc"])
    #expect(restored.children("audio").map { $0["type"] } == ["spice"])
  }

  @Test("graphics with a password are refused, since the record would show it")
  func secret() throws {
    var definition = Definition()
    definition.devices += "<graphics type='vnc' passwd='secret'/>"
    let domain = try DomainXML(definition.text)
    let before = domain.text
    #expect(throws: LibvirtError.secret("graphics of type vnc")) { try domain.enable(removingGraphics: true) }
    #expect(domain.text == before)
  }

  @Test("a definition that cannot start is refused unchanged, and later changes by hand stay")
  func refused() throws {
    let xen = try DomainXML(Definition(type: "xen").text)
    #expect(throws: LibvirtError.refused([.type("xen")])) { try xen.enable() }
    for problem in [DomainProblem.encrypted("sev"), .deviceAccess("dimm"), .noPCI("microvm of x86_64")] {
      let sample = try #require(DomainCase.all.first { $0.problems == [problem] })
      let domain = try DomainXML(sample.definition.text)
      let before = domain.text
      #expect(throws: LibvirtError.refused([problem])) { try domain.enable() }
      #expect(domain.text == before)
    }
    let nameless = try DomainXML("<domain type='kvm'><devices/></domain>")
    #expect(throws: LibvirtError.noName) { try nameless.enable() }

    let domain = try DomainXML(Definition().text)
    try domain.enable()
    domain.root.descendant("memoryBacking", "source")?["type"] = "file"
    domain.root.child("memoryBacking")?.append(try domain.document.make("<hugepages/>"))
    try domain.disable()
    let backing = try #require(domain.root.child("memoryBacking"))
    #expect(backing.child("source")?["type"] == "file" && backing.child("hugepages") != nil)
    #expect(backing.child("access") == nil)
  }

  @Test("new options replace those that a domain has, and no options keep them")
  func options() throws {
    let domain = try DomainXML(Definition().text)
    try domain.enable(options: [
      DomainOption("kms", "/dev/dri/card0:HDMI-A-1,DP-1"), DomainOption("kms", "auto"),
    ])
    try domain.enable()
    #expect(try domain.reference()?.options.map(\.value) == ["/dev/dri/card0:HDMI-A-1,DP-1", "auto"])
    try domain.enable(options: [DomainOption("cursor", "off")])
    #expect(try domain.reference()?.options.map(\.name) == ["cursor"])
  }

  @Test("a domain with a window of QEMU's is shown there, unless its options say where")
  func window() throws {
    var definition = Definition()
    definition.devices += "<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>"
    let domain = try DomainXML(definition.text)
    try domain.enable()
    #expect(try domain.reference()?.options == [DomainOption("display", "qemu")])
    let chosen = try DomainXML(definition.text)
    try chosen.enable(options: [DomainOption("kms", "auto")])
    #expect(try chosen.reference()?.options.map(\.name) == ["kms"])
    let plain = try DomainXML(Definition().text)
    try plain.enable()
    #expect(try plain.reference()?.options == [])
  }

  @Test("a window that a card draws adds the card's node as the stride's alignment")
  func windowOfACard() throws {
    var definition = Definition()
    definition.devices +=
      "<graphics type='spice'><listen type='none'/><gl enable='yes' rendernode='/dev/dri/renderD129'/></graphics>"
    let domain = try DomainXML(definition.text)
    try domain.enable()
    let options = [
      try DomainOption("display", "qemu"), try DomainOption("stride-alignment", "/dev/dri/renderD129"),
    ]
    #expect(try domain.reference()?.options == options)
    try domain.enable()
    #expect(try domain.reference()?.options == options)
    #expect(domain.text.contains("?display=qemu;stride-alignment=%2Fdev%2Fdri%2FrenderD129"))
    // A display without GL is drawn by no card.
    var closed = Definition()
    closed.devices +=
      "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD129'/></graphics>"
    let headless = try DomainXML(closed.text)
    try headless.enable()
    #expect(try headless.reference()?.options == [])
  }

  @Test("a video's start size becomes an option, unless another is chosen or it cannot be one")
  func startSize() throws {
    func video(_ size: String) -> Definition {
      Definition(devices: "<video><model type='virtio'><resolution \(size)/></model></video>")
    }
    for (size, options, wanted) in [
      ("x='2560' y='1440'", nil, ["resolution=2560x1440"]),
      ("x='2560' y='1440'", [try DomainOption("cursor", "off")], ["cursor=off", "resolution=2560x1440"]),
      ("x='2560' y='1440'", [try DomainOption("resolution", "800x600")], ["resolution=800x600"]),
      ("x='63' y='1440'", nil, []), ("x='2560' y='16385'", nil, []), ("x='-1' y='2'", nil, []),
      ("x='2560'", nil, []),
    ] as [(String, [DomainOption]?, [String])] {
      let domain = try DomainXML(video(size).text)
      try domain.enable(options: options)
      #expect(try domain.reference()?.options.map { "\($0.name)=\($0.value)" } == wanted)
      try domain.disable()
      #expect(domain.video?.descendant("model", "resolution") != nil)
    }
    // Also when the options are changed later.
    let domain = try DomainXML(video("x='800' y='600'").text)
    try domain.enable()
    try domain.enable(options: [DomainOption("cursor", "off")])
    #expect(try domain.reference()?.options.map(\.value) == ["off", "800x600"])
  }

  @Test("on QEMU's display a video keeps its start size, and no option has it")
  func startSizeOfAWindow() throws {
    var definition = Definition(
      devices: "<video><model type='virtio'><resolution x='800' y='600'/></model></video>")
    definition.devices += "<graphics type='dbus' p2p='yes'><gl enable='yes'/></graphics>"
    let domain = try DomainXML(definition.text)
    for options in [nil, [try DomainOption("display", "qemu")]] {
      try domain.enable(options: options)
      #expect(try domain.reference()?.options == [DomainOption("display", "qemu")])
      let size = try #require(domain.ownVideo?.descendant("model", "resolution"))
      #expect(size["x"] == "800" && size["y"] == "600")
    }
    try domain.enable(options: [DomainOption("kms", "auto")])
    #expect(try domain.reference()?.options.map(\.value) == ["auto", "800x600"])
  }

  @Test("features that the helper lacks are taken out of a video made by hand, and put back")
  func features() throws {
    let domain = try DomainXML(DomainCase.driver("iommu='on' ats='on' packed='on'").text)
    try domain.enable()
    #expect(domain.problems == [])
    let driver = try #require(domain.ownVideo?.child("driver"))
    #expect(driver["iommu"] == nil && driver["packed"] == nil && driver["ats"] == "on")
    let once = domain.text
    try domain.enable()
    #expect(domain.text == once)
    try domain.disable()
    let left = try #require(domain.video?.child("driver"))
    #expect(left["iommu"] == "on" && left["packed"] == "on" && left["name"] == nil)
    #expect(domain.record == nil)
  }

  @Test("disabling leaves a device that was made by hand, without the back end")
  func byHand() throws {
    let domain = try DomainXML(DomainCase.ready.text)
    try domain.disable()
    #expect(!domain.isOurs)
    #expect(domain.video?.child("model")?["type"] == "virtio" && domain.video?.child("driver") == nil)
  }

  @Test("a definition made by hand survives enable and disable, and stays if it lacks nothing")
  func byHandEnabled() throws {
    let ready = try DomainXML(DomainCase.ready.text)
    let before = ready.text
    try ready.enable()
    #expect(ready.text == before)
    try ready.enable(options: [DomainOption("cursor", "off")])
    #expect(ready.record == nil, "disable needs none")
    try ready.disable()
    #expect(ready.video?.child("model")?["type"] == "virtio")

    let closed = Definition(devices: Definition.own("/run/udmabridge/web?") + "<graphics type='vnc'/>")
    let lacking = try DomainXML(closed.text)
    try lacking.enable(options: [DomainOption("cursor", "off")], removingGraphics: true)
    #expect(lacking.problems == [])
    try lacking.disable()
    #expect(!lacking.isOurs && lacking.root.child("memoryBacking") == nil)
    #expect(lacking.video?.child("model")?["type"] == "virtio" && lacking.video?.child("driver") == nil)
    #expect(lacking.root.descendant("devices", "graphics")?["type"] == "vnc")
  }

  @Test("of videos that replaced each other, the last one comes back")
  func replaced() throws {
    let domain = try DomainXML(Definition().text)
    func replaceVideo(_ text: String?) throws {
      let own = try #require(domain.ownVideo)
      if let text { own.insertBefore(try domain.document.make(text)) }
      own.remove()
    }
    try domain.enable()
    try replaceVideo("<video><model type='qxl'/></video>")
    try domain.enable()
    #expect(domain.record?.children("video").map { $0.child("model")?["type"] } == ["qxl"])
    try replaceVideo(nil)
    try domain.enable()
    try domain.disable()
    #expect(domain.video == nil)

    // One that was made by hand counts no more than another.
    let byHand = try DomainXML(Definition(devices: Definition.own("/run/udmabridge/web?")).text)
    try byHand.enable()
    let own = try #require(byHand.ownVideo)
    own.insertBefore(try byHand.document.make("<video><model type='qxl'/></video>"))
    own.remove()
    try byHand.enable()
    try byHand.disable()
    #expect(byHand.video?.child("model")?["type"] == "qxl")
  }

  @Test("the user that QEMU runs as is read from the label that hooks get")
  func owner() throws {
    var definition = Definition()
    #expect(try DomainXML(definition.text).owner == nil)
    definition.cpu = """
      <seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1</label></seclabel>
      <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>
      """
    let owner = try #require(try DomainXML(definition.text).owner)
    #expect(owner == (64055, 108))
    definition.cpu = "<seclabel type='static' model='dac'><label>daemon:bin</label></seclabel>"
    let (daemon, bin) = (try #require(Account("daemon")?.user), try #require(groupNumber(of: "bin")))
    #expect(try #require(try DomainXML(definition.text).owner) == (daemon, bin))
    for label in ["no-such-user:bin", "daemon:no-such-group", "daemon", ""] {
      definition.cpu = "<seclabel model='dac'><label>\(label)</label></seclabel>"
      #expect(try DomainXML(definition.text).owner == nil)
    }
  }

  @Test("a definition without its passwords can be looked at, and is not defined again")
  func secrets() throws {
    func read(_ flags: UInt32) throws(LibvirtError) -> String {
      // VIR_DOMAIN_XML_SECURE
      if flags & 1 != 0 { throw .domain("web", "access denied") }
      return Definition().text
    }
    #expect(try DomainXML(isToBeDefined: false, read).name == "web")
    #expect {
      try DomainXML(isToBeDefined: true, read)
    } throws: { "\($0)".contains("domain web: access denied") && explained($0).contains("--dry-run") }
    // What cannot be read at all is not about passwords.
    let gone = LibvirtError.domain("web", "there is none")
    #expect(throws: gone) {
      try DomainXML(isToBeDefined: true) { _ throws(LibvirtError) in throw gone }
    }
  }

  @Test("the difference shows what goes and what comes, and no password")
  func difference() {
    let old = (1...20).map { "line \($0)" }.joined(separator: "\n")
    let new = old.replacing("line 10\n", with: "<vnc passwd='a' x='1'/>\n")
    let text = "\(LineDiff(old, new))"
    #expect(
      text.split(separator: "\n").map(String.init) == [
        "  line 7", "  line 8", "  line 9", "- line 10", "+ <vnc passwd=\"...\" x='1'/>", "  line 11",
        "  line 12", "  line 13",
      ])
    #expect(LineDiff(old, old).isEmpty && !LineDiff(old, new).isEmpty)
  }
}
