internal import ArgumentParser
public import Buffers
import Consumers
import Linux
import Logging
import Scanout
import SystemPackage
import Tracing
import VhostUserGPU
public import VirtioGPU

/// The program's options: those of QEMU's back-end program conventions, and our own.
struct Options: ParsableArguments {
  @Option(help: ArgumentHelp("Listen on this Unix socket for QEMU's connection.", valueName: "path"))
  var socketPath: String?

  @Option(
    help: ArgumentHelp("Use this inherited descriptor, which is connected to QEMU.", valueName: "number"))
  var fd: Int32?

  @Flag(
    help:
      "Serve one connection after the other until SIGTERM, for front ends that reconnect when the guest reboots (cloud-hypervisor)."
  )
  var keep = false

  @Option(
    help: ArgumentHelp(
      "What the device offers the guest through QEMU's vhost-user-test-device-pci. display: blobs of the guest's own memory, and buffers that the guest imports. share: memory of the host.",
      valueName: "which"))
  var profile = Profile.display

  @Option(
    help: ArgumentHelp(
      "Serve a second device of the same guest on this Unix socket, for memory of the host. The first one is for display.",
      valueName: "path"))
  var shareSocketPath: String?

  @Option(
    help: ArgumentHelp(
      "The same, on this inherited descriptor, which is connected to QEMU.", valueName: "number"))
  var shareFd: Int32?

  @Option(
    help: ArgumentHelp(
      "Serve another device of the same guest on this Unix socket, without a screen. It is QEMU's generic device (vhost-user-test-device-pci), and takes buffers of other drivers, which the guest lends over --port.",
      valueName: "path"))
  var lendSocketPath: String?

  @Option(
    help: ArgumentHelp(
      "The size of the region in which the guest maps memory of the host.", valueName: "size"))
  var hostMemory = ByteCount(256 << 20)

  @Option(
    help: ArgumentHelp(
      "Memory of the host that the guest may map as blob ID. WHAT is memfd:SIZE, fd:N (an inherited memfd or dma-buf), or dumb:WxH@CARD (a buffer of the host's card). With ro the guest cannot write to it. With uses=N the guest may have N blobs of it at once; the default is one. May be repeated.",
      valueName: "ID=WHAT[,ro][,uses=N]"))
  var offer: [OfferOption] = []

  @Flag(help: "Print the type and the capabilities of this back end as JSON, and exit.")
  var printCapabilities = false

  @Option(
    help: ArgumentHelp(
      "Show the guest's frames on this card: PATH[:CONNECTOR[,CONNECTOR]], auto, or fd:N[:CONNECTOR] for an inherited descriptor. Each connector is a scanout, in the order given. May be repeated. Without --kms and --control, QEMU's own display shows the frames.",
      valueName: "card"))
  var kms: [String] = []

  @Option(
    help: ArgumentHelp(
      "Show the guest's frames on QEMU's own display: qemu, or off. By default qemu, if neither --kms nor --control is given.",
      valueName: "qemu|off"))
  var display: DisplayChoice?

  @Option(
    help: ArgumentHelp(
      "The stride alignment of the card that draws QEMU's display: a number of bytes, or the card's render node, whose driver decides. A picture whose stride is not a multiple of it is copied.",
      valueName: "bytes|/dev/dri/renderD..."))
  var strideAlignment: StrideAlignmentOption?

  @OptionGroup var control: ControlOptions

  @OptionGroup var port: PortOptions

  @OptionGroup var libvirt: LibvirtOptions

  @Option(
    help: ArgumentHelp(
      "The size that the guest is to prefer. The card must be able to show it. May be repeated: one for each scanout in order, and the last one for the rest.",
      valueName: "WxH"))
  var resolution: [PixelSize] = []

  @Option(
    help: ArgumentHelp(
      "auto: lend the guest's pages where that is possible, and copy them where not; lent: never copy; shadow: always copy.",
      valueName: "how"))
  var backing = BackingChoice.auto

  @Option(
    help: ArgumentHelp(
      "auto: show the guest's cursor on the screen's cursor plane; if the screen has none, draw it into a copy. plane: never draw it. off: do not show it.",
      valueName: "where"))
  var cursor = CursorChoice.auto

  @Option(
    help: ArgumentHelp(
      "The least severe messages to log: trace, debug, info, notice, warning, error or critical.",
      valueName: "level"),
    transform: logLevel)
  var logLevel = Logger.Level.notice

  @Option(
    help: ArgumentHelp("Write statistics into this file, as JSON, on SIGUSR1 and at exit.", valueName: "file")
  )
  var stats: String?

  @Option(
    help: ArgumentHelp(
      "Write there what the guest reports: resources, page lists, scanouts, flushes and lent buffers, no pixels. udmabridge plan --trace reads it.",
      valueName: "file"))
  var trace: String?

  @Option(help: ArgumentHelp("The most that the file of --trace may have.", valueName: "size"))
  var traceLimit = ByteCount(64 << 20)

  @Option(
    help: ArgumentHelp(
      "Allow only the system calls of a running helper: on, or off for debugging.", valueName: "on|off"))
  var sandbox = Switch.on

  @Option(
    help: ArgumentHelp("At most this many resources may exist in the guest at once.", valueName: "count"))
  var maxResources = Quotas().resources

  @Option(help: ArgumentHelp("At most this much guest memory may be lent at once.", valueName: "size"))
  var maxPinned = ByteCount(Quotas().pinnedBytes)

  @Option(help: ArgumentHelp("The most entries in one page list.", valueName: "count"))
  var maxEntries = Quotas().entries

  @Option(
    help: ArgumentHelp(
      "At most this much of the helper's memory for keeping account of the guest's buffers.",
      valueName: "size"))
  var maxBookkeeping = ByteCount(Quotas().bookkeepingBytes)

  @Option(
    help: ArgumentHelp(
      "At most this much memory for copies of buffers that cannot be lent.", valueName: "size"))
  var maxShadow = ByteCount(Quotas().shadowBytes)

  private static func logLevel(_ name: String) throws -> Logger.Level {
    guard let level = Logger.Level(rawValue: name) else {
      let names = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("there is no log level \(name); give one of \(names)")
    }
    return level
  }

  func validate() throws {
    if printCapabilities { return }
    if (socketPath == nil) == (fd == nil) {
      throw ValidationError("give either --socket-path PATH or --fd NUMBER")
    }
    if keep && (fd != nil || shareFd != nil) {
      throw ValidationError(
        "--keep needs sockets, because an inherited descriptor is only one connection: give --socket-path PATH, and --share-socket-path PATH for a second device"
      )
    }
    if shareSocketPath != nil && shareFd != nil {
      throw ValidationError("give either --share-socket-path PATH or --share-fd NUMBER")
    }
    if display == .qemu && !kms.isEmpty {
      throw ValidationError(
        "--display qemu and --kms exclude each other, because only one of them can pace the frames: leave one out"
      )
    }
    if profile == .share && (shareSocketPath != nil || shareFd != nil) {
      throw ValidationError(
        "if a second device shares, the first one is for display: leave --profile share out")
    }
    if !offer.isEmpty && !devices.contains(where: { $0.profile == .share }) {
      throw ValidationError(
        "--offer needs a device that shares: give --profile share, or --share-socket-path PATH")
    }
    if Set(offer.map(\.id)).count < offer.count {
      throw ValidationError(
        "two --offer have the same ID: give each its own, by which the guest tells them apart")
    }
    if hostMemory.bytes == 0 || hostMemory.bytes % systemPageSize != 0 || hostMemory.bytes > 1 << 40 {
      throw ValidationError("--host-memory must be a multiple of \(systemPageSize) bytes, and at most 1T")
    }
    if resolution.count > GPUDevice.maxScanouts {
      throw ValidationError(
        "--resolution is given \(resolution.count) times, but a guest has at most \(GPUDevice.maxScanouts) scanouts: give fewer"
      )
    }
    if traceLimit.bytes < TraceWriter.leastLimit {
      throw ValidationError("--trace-limit is \(ByteCount(TraceWriter.leastLimit)) at least")
    }
    if lendSocketPath != nil && port.port == nil {
      throw ValidationError("--lend-socket-path needs --port PATH, over which the guest lends")
    }
    if port.port != nil && control.control == nil {
      throw ValidationError(
        "--port needs --control SOCKET, on which other processes import the buffers")
    }
    if maxResources < 1 || maxEntries < 1 || maxEntries > 1 << 24 {
      throw ValidationError("--max-resources must be at least 1, and --max-entries from 1 to 16777216")
    }
  }

  var showsOnQEMU: Bool { (display ?? (kms.isEmpty && control.control == nil ? .qemu : .off)) == .qemu }

  struct Device {
    let profile: Profile
    /// One of the devices has the screens.
    let hasScreens: Bool
    let address: Endpoint.Address
    /// The option that names an inherited descriptor.
    var descriptorOption = ""
    /// The helper listens for this device before it does anything else.
    var isFirst = false
  }

  /// The devices to serve, in the order of their options.
  var devices: [Device] {
    func address(_ path: String?, _ fd: CInt?) -> Endpoint.Address? {
      path.map { .path(FilePath($0)) } ?? fd.map { .descriptor($0) }
    }
    return [
      address(socketPath, fd).map {
        Device(profile: profile, hasScreens: true, address: $0, descriptorOption: "--fd \(fd ?? -1)")
      },
      address(shareSocketPath, shareFd).map {
        Device(
          profile: .share, hasScreens: false, address: $0, descriptorOption: "--share-fd \(shareFd ?? -1)",
          isFirst: shareSocketPath != nil)
      },
      address(lendSocketPath, nil).map {
        Device(profile: .display, hasScreens: false, address: $0, isFirst: true)
      },
    ].compactMap(\.self)
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
extension Profile: ExpressibleByArgument {}
enum DisplayChoice: String, ExpressibleByArgument, CaseIterable { case qemu, off }
enum Switch: String, ExpressibleByArgument, CaseIterable { case on, off }

/// `256`, or a render node.
enum StrideAlignmentOption: ExpressibleByArgument {
  case bytes(StrideAlignment)
  case renderNode(FilePath)

  init?(argument: String) {
    if argument.hasPrefix("/") {
      self = .renderNode(FilePath(argument))
    } else if let bytes = UInt32(argument), let alignment = StrideAlignment(bytes: bytes) {
      self = .bytes(alignment)
    } else {
      return nil
    }
  }
}

extension PixelSize: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument, sides: 64...16384) }
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
