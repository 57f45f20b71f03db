import Linux
import SystemPackage
import Testing

@testable import KMS

@Suite struct KMSTargetTests {
  @Test(
    "a target is read, and written again as it was",
    arguments: [
      ("auto", KMSTarget(.auto)),
      ("/dev/dri/card0", KMSTarget(.path("/dev/dri/card0"))),
      ("/dev/dri/card1:HDMI-A-1", KMSTarget(.path("/dev/dri/card1"), connectors: ["HDMI-A-1"])),
      (
        "/dev/dri/card1:DP-2,Virtual-10",
        KMSTarget(.path("/dev/dri/card1"), connectors: ["DP-2", "Virtual-10"])
      ),
      (
        "/dev/dri/by-path/pci-0000:00:02.0-card",
        KMSTarget(.path("/dev/dri/by-path/pci-0000:00:02.0-card"))
      ),
      (
        "/dev/dri/by-path/pci-0000:00:02.0-card:eDP-1",
        KMSTarget(.path("/dev/dri/by-path/pci-0000:00:02.0-card"), connectors: ["eDP-1"])
      ),
      ("fd:7", KMSTarget(.descriptor(7))),
      ("fd:7:DP-1", KMSTarget(.descriptor(7), connectors: ["DP-1"])),
    ])
  func reads(_ text: String, _ target: KMSTarget) throws {
    #expect(try KMSTarget(text) == target)
    #expect(target.description == text)
  }

  @Test(
    "a malformed target is refused",
    arguments: ["", "card0", "fd:", "fd:x", "fd:-1", "fd:99999999999", ":DP-1", "auto:DP-1"])
  func refuses(_ text: String) {
    #expect(throws: KMSError.malformedTarget(text)) { try KMSTarget(text) }
  }

  @Test("a path with a zero byte is refused") func refusesWhatIsNoPath() {
    #expect(throws: KMSError.malformedTarget("/dev/\0")) { try KMSTarget("/dev/\0") }
  }
}

@Suite struct AssignmentTests {
  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let choices: [[Int]]
    let result: [Int?]
  }

  @Test(
    "items are paired as well as possible",
    arguments: [
      Case(testDescription: "nothing", choices: [], result: []),
      Case(testDescription: "first choices", choices: [[1, 0], [0, 1]], result: [1, 0]),
      Case(testDescription: "one gives way", choices: [[0, 1], [0]], result: [1, 0]),
      Case(testDescription: "two give way", choices: [[0, 1], [1, 2], [0]], result: [1, 2, 0]),
      Case(testDescription: "none left", choices: [[0], [0], [1]], result: [0, nil, 1]),
      Case(testDescription: "no choice at all", choices: [[], [3]], result: [nil, 3]),
    ])
  func pairs(_ one: Case) { #expect(assign(one.choices) == one.result) }
}

@Suite struct FlipEventTests {
  private func event(type: UInt32 = 2, length: UInt32 = 32, tag: UInt64 = 0, vblank: UInt32 = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    func add(_ number: UInt32) { unsafe withUnsafeBytes(of: number) { unsafe bytes.append(contentsOf: $0) } }
    func add(_ number: UInt64) { unsafe withUnsafeBytes(of: number) { unsafe bytes.append(contentsOf: $0) } }
    add(type)
    add(length)
    add(tag)
    for number in [UInt32(0), 0, vblank, 0] { add(number) }
    return bytes
  }

  private func parse(_ bytes: [UInt8]) -> (Bool, [FlipEvent]) {
    var flips: [FlipEvent] = []
    let isWhole = unsafe FlipEvent.parse(bytes.span.bytes) { flips.append($0) }
    return (isWhole, flips)
  }

  @Test("flip events are taken, and other events are skipped") func takesFlipsAndSkipsOthers() {
    let bytes =
      event(tag: 0x1_0000_0002, vblank: 9) + event(type: 1, tag: 5) + event(type: 77) + event(tag: 3)
    let (isWhole, flips) = parse(bytes)
    #expect(isWhole)
    #expect(flips == [FlipEvent(tag: 0x1_0000_0002, vblank: 9), FlipEvent(tag: 3, vblank: 0)])
    #expect(parse([]) == (true, []))
  }

  @Test(
    "an event of a wrong length is refused, after those before it", arguments: [0, 7, 24, 33, UInt32.max])
  func refusesLengths(_ length: UInt32) {
    #expect(parse(event(tag: 1) + event(length: length)) == (false, [FlipEvent(tag: 1, vblank: 0)]))
  }

  @Test("an event that is cut off is refused") func refusesWhatIsCutOff() {
    for count in 1..<32 { #expect(parse(Array(event().prefix(count))) == (false, [])) }
  }
}

@Suite struct KMSCardNativeTests {
  @Test("a file that is not a card is refused") func whatIsNoCard() {
    #expect(throws: KMSError.cannotOpen(card: "/dev/dri/none", .noSuchFileOrDirectory)) {
      try KMSCard(KMSTarget("/dev/dri/none"))
    }
    #expect(throws: KMSError.noModeSetting(card: "/dev/null")) { try KMSCard(KMSTarget("/dev/null")) }
    #expect(throws: KMSError.cannotOpen(card: "fd:1048576", .badFileDescriptor)) {
      try KMSCard(KMSTarget("fd:1048576"))
    }
  }

  /// The two forms of debugfs's list of clients, of 6.12 and 7.3.
  @Test("the DRM master is found in the kernel's list of clients") func findsTheMaster() {
    let old = """
                   command  tgid dev master a   uid      magic
            systemd-logind   700   0   y    y     0          0
                  Xorg one  1200   0   n    y  1000          1
      """
    #expect(KMSCard.masterHolder(clients: old) == "systemd-logind, process 700")
    let new = """
                   command  tgid dev master a   uid      magic    name                   id
             my compositor  1200   0   y    y  1000          0    <unset>                 5
      """
    #expect(KMSCard.masterHolder(clients: new) == "my compositor, process 1200")
    #expect(KMSCard.masterHolder(clients: "command tgid dev master\n  a 1 0 n y 0 0\n") == nil)
    #expect(KMSCard.masterHolder(clients: "") == nil)
  }
}
