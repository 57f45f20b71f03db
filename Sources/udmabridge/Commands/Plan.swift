internal import ArgumentParser
import Buffers
import Guest
import Linux
import Programs
public import QEMU
import Scanout
import SystemPackage
import Udmabuf

struct Plan: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Tell what a guest's page list would become, without any guest or device.",
    discussion: """
      The ranges are a guest's page list: ADDRESS:LENGTH, or ADDRESS for one page. The layout is one of a file, in which \
      each line is ADDRESS:LENGTH MEMORY [OFFSET] [unsealed], as udmabridge ram --layout writes it; or that of a machine \
      of QEMU's.

        udmabridge plan --machine q35 --memory 3G 0x7ffff000:8K 0x100000000:8100K
        udmabridge plan --layout layout.txt --size 1920x1080 @pages.txt

      Told are the items that udmabuf would get, the limits that it must have, and whether the pages would be lent, or \
      copied (a shadow) and why, as the log of vhost-user-udmabuf and docs/causes.md call it. The exit status is 1 if the \
      guest names memory that it does not have.
      """)

  @Option(help: ArgumentHelp("The file with the memory layout.", valueName: "file"))
  var layout: String?

  @Option(help: "Instead of a layout: how QEMU lays out the RAM of this machine.")
  var machine: MachineShape.Machine?

  @Option(help: ArgumentHelp("How much RAM that machine has.", valueName: "size"))
  var memory: Quantity?

  @Flag(
    name: .customLong("amd"),
    help:
      "That machine's processor is one of AMD's: where it has about 1 TiB of RAM, QEMU 7.1 and later puts all that is above 4 GiB at 1 TiB."
  )
  var isAMD = false

  @OptionGroup(title: "The image, if the pages are one") var geometry: GeometryOptions

  @Option(
    help: ArgumentHelp(
      "The kernel's list_limit; this host's if it has one, else the driver's 1024.", valueName: "count"))
  var listLimit: UInt64?

  @Option(
    help: ArgumentHelp(
      "The kernel's size_limit_mb; this host's if it has one, else the driver's 64.", valueName: "MiB"))
  var sizeLimitMb: UInt64?

  @Flag(help: "Print each item, not only how many there are.")
  var items = false

  @OptionGroup var output: OutputOptions

  @Argument(
    help: ArgumentHelp(
      "The page list: ADDRESS:LENGTH, ADDRESS, @FILE, or - for standard input.", valueName: "range"))
  var ranges: [String]

  func validate() throws {
    if (layout == nil) == (machine == nil) {
      throw ValidationError("give either --layout FILE or --machine q35|pc --memory SIZE")
    }
    if (machine == nil) != (memory == nil) { throw ValidationError("--machine and --memory belong together") }
    if isAMD, machine == nil { throw ValidationError("--amd belongs to --machine") }
    if let memory, memory.value == 0 || memory.value % systemPageSize != 0 {
      throw ValidationError("--memory \(memory) is no multiple of the page size \(systemPageSize)")
    }
  }

  private var shape: MachineShape? {
    guard let machine, let memory else { return nil }
    return MachineShape(machine, memory: memory.value, isAMD: isAMD)
  }

  private func readLayout() throws -> GuestLayout {
    if let layout { return try LayoutText.read(layout) }
    guard let shape else { preconditionFailure("validate has looked") }
    return GuestLayout(
      backings: [try LayoutText.standIn("ram", shape.memory)], parts: shape.parts, source: .text)
  }

  func run() throws {
    let layout = try readLayout()
    var limits = UdmabufLimits.current()
    if let listLimit { limits.items = listLimit }
    if let sizeLimitMb {
      limits.bytes = sizeLimitMb.multipliedReportingOverflow(by: 1 << 20).overflow ? .max : sizeLimitMb << 20
    }
    let image = geometry.size == nil ? nil : try geometry.layout(memory: .max)

    var pages = try JoinedPages(
      layout, upTo: image?.pages ?? .max, completing: image?.bytes ?? .max,
      // The kernel takes nothing of a longer list.
      keeping: items ? .max : limits.items)
    try RangeList.read(ranges) { pages.add($0) }
    try pages.finish()
    var facts = PlanFacts(pages, needed: image?.bytes, limits, layout, withItems: items)
    if let shape, shape.dependsOnProcessor, !shape.isAMD {
      facts.note =
        "with an AMD processor QEMU 7.1 and later puts all RAM above 4 GiB of this machine at 1 TiB: say --amd"
    }
    try output.print(facts, facts.text)
  }
}

extension MachineShape.Machine: ExpressibleByArgument {}

/// What a page list would become.
struct PlanFacts: Encodable {
  struct Item: Encodable {
    let memory: String
    /// In the memory, in bytes.
    let offset, length: UInt64
  }
  struct Limits: Encodable, Equatable {
    let listLimit, sizeLimitMb: UInt64
  }
  enum Backing: String, Encodable { case lent, shadow }

  let entries: Int
  let itemCount: Int
  /// In bytes.
  let size: UInt64
  let pages: UInt64
  /// The least that the kernel's module parameters must be.
  let neededLimits: Limits
  let limits: Limits
  let backing: Backing
  /// Why it is not lent: its name, as the helper's log has it, and what to do.
  var cause: String?
  var reason: String?
  /// The answer depends on this too.
  var note: String?
  var items: [Item]?

  init(
    _ joined: JoinedPages, needed: UInt64?, _ limits: UdmabufLimits, _ layout: GuestLayout, withItems: Bool
  ) {
    (entries, itemCount, size) = (joined.entries, joined.count, joined.size)
    pages = Self.count(of: systemPageSize, in: size)
    neededLimits = Limits(listLimit: UInt64(joined.count), sizeLimitMb: Self.count(of: 1 << 20, in: size))
    self.limits = Limits(listLimit: limits.items, sizeLimitMb: limits.bytes >> 20)
    let cause = Self.cause(joined, needed, limits)
    backing = cause == nil ? .lent : .shadow
    (self.cause, reason) = (cause?.name.rawValue, cause?.message)
    if withItems {
      let names = Dictionary(
        layout.backings.compactMap { backing in backing.memfd.map { (ObjectIdentifier($0), backing.name) } },
        uniquingKeysWith: { first, _ in first })
      items = joined.ranges.map {
        Item(memory: names[ObjectIdentifier($0.memfd)] ?? "?", offset: $0.offset, length: $0.length)
      }
    }
  }

  /// How many units a size takes, the last one perhaps in part.
  private static func count(of unit: UInt64, in size: UInt64) -> UInt64 {
    size / unit + (size % unit == 0 ? 0 : 1)
  }

  /// As the helper decides it (`Lender.take`).
  private static func cause(_ joined: JoinedPages, _ needed: UInt64?, _ limits: UdmabufLimits) -> ShadowCause?
  {
    if let needed, joined.size < needed { return ShadowCause(.short(bytes: joined.size, needed: needed)) }
    do throws(UdmabufError) {
      if joined.count > limits.items { throw .tooManyItems(count: joined.count, limit: limits.items) }
      _ = try UdmabufDevice.check(joined.ranges, limits)
      return nil
    } catch { return ShadowCause(LendError(error)) }
  }

  var text: String {
    var lines = [
      "entries  \(entries)", "items    \(itemCount) after joining neighbours",
      "size     \(size) bytes (\(bytes(size))), \(counted(pages, "page"))",
      "needs    list_limit \(neededLimits.listLimit) (is \(limits.listLimit)), size_limit_mb \(neededLimits.sizeLimitMb) (is "
        + "\(limits.sizeLimitMb))",
      "result   " + (reason.map { "shadow (\(cause ?? "")): \($0)" } ?? "lent"),
    ]
    if let note { lines.append("note     \(note)") }
    for item in items ?? [] {
      lines.append("item     \(hex(item.offset)):\(hex(item.length)) \(item.memory)")
    }
    return lines.joined(separator: "\n")
  }
}
