import ArgumentParser
import Glibc
import KMS
import Linux
import Logging
import Presenting
import Sandbox
import Scanout
import SystemPackage
import Udmabuf
import Varlink

/// The KMS consumer as a process of its own, so that the helper needs no card.
struct Present: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show what a guest shows on a KMS card's screens.",
    discussion: """
      The frames come from the control socket of vhost-user-udmabuf. The guest's own pages are on the screen if the card \
      takes them; otherwise a copy is. The command must be DRM master, so no display server may hold the card. It ends \
      with the helper, or at SIGINT or SIGTERM. The screens then show again what they showed before.

        udmabridge present --control /run/vg.control --kms /dev/dri/card0:HDMI-A-1,DP-1
      """)

  @OptionGroup var socket: HelperChoice

  @Option(
    help: ArgumentHelp(
      "The card: PATH[:CONNECTOR[,CONNECTOR...]], auto, or fd:N[:CONNECTOR...] for an inherited descriptor. May be repeated; the guest's scanouts go to the connectors in this order.",
      valueName: "card"))
  var kms: [String] = []

  @Flag(help: "Show no cursor.")
  var noCursor = false

  @Option(help: "Allow only the system calls that showing needs: on, or off for debugging.")
  var sandbox = Confinement.on

  @OptionGroup var output: OutputOptions

  enum Confinement: String, ExpressibleByArgument, CaseIterable { case on, off }
  /// Spare connections for those that the helper closes: the sandbox allows no new ones.
  private static let reserve = 4

  func validate() throws {
    if kms.isEmpty { throw ValidationError("which card? --kms CARD, or --kms auto") }
  }

  func run() throws {
    let presenter = try present()
    if let failure = presenter.failure { throw failure }
    try output.print(presenter.counts, presenter.counts.text)
  }

  /// Shows frames until the end, and then restores the screens.
  private func present() throws -> Presenter {
    let plan = try KMSPlan(kms.map { try KMSTarget($0) })
    // Without a helper it fails here, before the screens change.
    let watching = try VarlinkClient(socket.path())
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    try ignoreWriteSignals()
    try exitOnBusError("udmabridge: memory of the guest became shorter while it was copied\n")
    let udmabuf = try? UdmabufDevice()
    let cards = try plan.cards.map {
      try KMSSink(
        $0, udmabuf: udmabuf, loop: loop, log: Logger(label: "udmabridge") { _ in SwiftLogNoOpLogHandler() })
    }
    defer { for card in cards { card.close() } }
    let sink: any ScanoutSink =
      cards.count == 1
      ? cards[0] : SinkGroup(cards, routes: plan.routes(outputs: cards.map(\.outputs.count)))
    let presenter = try Presenter(
      watching, socket.path(), sink, reserve: sandbox == .on ? Self.reserve : nil, showsCursor: !noCursor,
      udmabuf: udmabuf, loop: loop, onPicture: { [output] in try? output.print($0, $0.text) },
      onComplaint: { printError("udmabridge: \($0)") })
    defer { presenter.stop() }
    let token = try loop.add(signals.fd) { _ in loop.stop() }
    defer { loop.remove(token, signals.fd) }
    // Everything is open, and no byte from the helper has been read yet.
    if sandbox == .on {
      try Sandbox(program: "udmabridge", remedy: "--sandbox off runs without it, for debugging").enter(
        .serving)
    }
    try presenter.start()
    try loop.run()
    return presenter
  }
}

extension PresentCounts {
  fileprivate var text: String {
    "\(counted(shown, "frame")) shown, \(coalesced) coalesced, \(failed) failed; \(counted(buffers, "buffer")) taken in, "
      + "\(bytesCopied) bytes copied"
  }
}

extension PresentedPicture {
  fileprivate var text: String {
    "scanout \(scanout) on \(output): \(picture)" + (copied.map { ", copied: \($0)" } ?? "")
  }
}
