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
      The frames come from the control socket of vhost-user-udmabuf; the guest's own pages are on the screen where the \
      card takes them, else a copy. It must be DRM master, so no display server may hold the card. It ends with the \
      helper, or with SIGINT or SIGTERM; what the screens showed before is back then.

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

  @Option(help: "Whether it locks itself in: only the system calls that showing needs are allowed.")
  var sandbox = Confinement.on

  @OptionGroup var output: OutputOptions

  enum Confinement: String, ExpressibleByArgument, CaseIterable { case on, off }
  /// Connections in place of those that the helper closes, since none can be made in the sandbox.
  private static let reserve = 4

  func validate() throws {
    if kms.isEmpty { throw ValidationError("where to show it: --kms CARD, or --kms auto") }
  }

  func run() throws {
    let presenter = try present()
    if let failure = presenter.failure { throw failure }
    try output.print(presenter.counts, presenter.counts.text)
  }

  /// Until it ends; the screens are as they were then.
  private func present() throws -> Presenter {
    let plan = try KMSPlan(kms.map { try KMSTarget($0) })
    // Who is not there cannot be shown: before anything happens to the screens.
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
    // All is open, and nothing that the helper sent has been read.
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
