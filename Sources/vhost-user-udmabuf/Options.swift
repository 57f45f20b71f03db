public import ArgumentParser
public import Buffers
import Linux
import Logging
import SystemPackage
public import VirtioGPU

/// The program's options: those that QEMU's back-end program conventions name, and our own.
struct Options: ParsableArguments {
  @Option(help: ArgumentHelp("Listen on this Unix socket for QEMU's connection.", valueName: "path"))
  var socketPath: String?

  @Option(help: ArgumentHelp("Use this inherited descriptor, connected to QEMU.", valueName: "number"))
  var fd: Int32?

  @Flag(help: "Print what this back end is and can do as JSON, and exit.")
  var printCapabilities = false

  @Option(
    help: ArgumentHelp(
      "Show the guest's frames on this card: PATH[:CONNECTOR[,CONNECTOR]], auto, or fd:N[:CONNECTOR] for an inherited descriptor. One scanout for each connector, in their order; may be repeated. Without it nothing is shown.",
      valueName: "card"))
  var kms: [String] = []

  @Option(
    help: ArgumentHelp(
      "The size that the guest is asked to prefer; the card must be able to show it. May be repeated: one for each scanout in order, the last one for the rest.",
      valueName: "WxH"))
  var resolution: [Resolution] = []

  @Option(
    help: ArgumentHelp(
      "auto: lend the guest's pages where that is possible, else copy them; lent: never copy; shadow: always copy.",
      valueName: "how"))
  var backing = BackingChoice.auto

  @Option(
    help: ArgumentHelp(
      "auto: show the guest's cursor on a plane of its own, or drawn into a copy where the screen has none; plane: on a plane or not at all; off: nowhere.",
      valueName: "where"))
  var cursor = CursorChoice.auto

  @Option(
    help: ArgumentHelp("trace, debug, info, notice, warning, error or critical.", valueName: "level"),
    transform: logLevel)
  var logLevel = Logger.Level.notice

  @Option(
    help: ArgumentHelp("Write statistics there, as JSON, on SIGUSR1 and at exit.", valueName: "file"))
  var stats: String?

  @Option(
    help: ArgumentHelp(
      "Allow only the system calls of a running helper: on, or off for debugging.", valueName: "on|off"))
  var sandbox = Switch.on

  @Option(help: ArgumentHelp("Resources that the guest may have at once.", valueName: "count"))
  var maxResources = Quotas().resources

  @Option(help: ArgumentHelp("Guest memory that may be lent at once.", valueName: "size"))
  var maxPinned = ByteCount(Quotas().pinnedBytes)

  @Option(help: ArgumentHelp("Entries in one page list.", valueName: "count"))
  var maxEntries = Quotas().entries

  @Option(help: ArgumentHelp("Memory for keeping account of the guest's buffers.", valueName: "size"))
  var maxBookkeeping = ByteCount(Quotas().bookkeepingBytes)

  @Option(help: ArgumentHelp("Memory for copies of what cannot be lent.", valueName: "size"))
  var maxShadow = ByteCount(Quotas().shadowBytes)

  private static func logLevel(_ name: String) throws -> Logger.Level {
    guard let level = Logger.Level(rawValue: name) else {
      let names = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("there is no log level \(name); there are \(names)")
    }
    return level
  }

  func validate() throws {
    if printCapabilities { return }
    if (socketPath == nil) == (fd == nil) {
      throw ValidationError("give either --socket-path PATH or --fd NUMBER")
    }
    if resolution.count > GPUDevice.maxScanouts {
      throw ValidationError("a guest has at most \(GPUDevice.maxScanouts) scanouts: give fewer --resolution")
    }
    if maxResources < 1 || maxEntries < 1 || maxEntries > 1 << 24 {
      throw ValidationError("--max-resources and --max-entries count from 1; 16777216 entries are the most")
    }
  }

  var quotas: Quotas {
    var quotas = Quotas()
    quotas.resources = maxResources
    quotas.pinnedBytes = maxPinned.bytes
    quotas.entries = maxEntries
    quotas.bookkeepingBytes = maxBookkeeping.bytes
    quotas.shadowBytes = maxShadow.bytes
    return quotas
  }
}

extension BackingChoice: ExpressibleByArgument {}
extension CursorChoice: ExpressibleByArgument {}
enum Switch: String, ExpressibleByArgument, CaseIterable { case on, off }

/// `1920x1080`.
struct Resolution: ExpressibleByArgument, CustomStringConvertible {
  let width, height: UInt32

  init?(argument: String) {
    let sides = argument.split(separator: "x", omittingEmptySubsequences: false)
    guard sides.count == 2, let width = UInt32(sides[0]), let height = UInt32(sides[1]),
      (64...16384).contains(width), (64...16384).contains(height)
    else { return nil }
    (self.width, self.height) = (width, height)
  }

  var description: String { "\(width)x\(height)" }
}

/// `64M`, `4G`, or a number of bytes.
struct ByteCount: ExpressibleByArgument, CustomStringConvertible {
  let bytes: UInt64

  init(_ bytes: UInt64) { self.bytes = bytes }

  init?(argument: String) {
    let units: [Character: UInt64] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40]
    let unit = argument.last.flatMap { units[Character($0.uppercased())] }
    guard let count = UInt64(unit == nil ? argument[...] : argument.dropLast()) else { return nil }
    let (bytes, overflow) = count.multipliedReportingOverflow(by: unit ?? 1)
    guard !overflow else { return nil }
    self.bytes = bytes
  }

  var description: String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")]
    where bytes > 0 && (bytes >> shift) << shift == bytes {
      return "\(bytes >> shift)\(unit)"
    }
    return "\(bytes)"
  }

  var defaultValueDescription: String { description }
}
