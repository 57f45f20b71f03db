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
        udmabridge plan --trace trace.txt --list-limit 1024

      Told are the items that udmabuf would get, the limits that it must have, and whether the pages would be lent, or \
      copied (a shadow) and why, as the log of vhost-user-udmabuf and docs/causes.md call it. The exit status is 1 if the \
      guest names memory that it does not have.

      With --trace the lists are those that vhost-user-udmabuf --trace wrote down, each in the layout that the guest had, or \
      in the one that is given here.
      """)

  @Option(
    help: ArgumentHelp(
      "Instead of ranges: what vhost-user-udmabuf --trace wrote. Memory is there as the trace says, without a layout.",
      valueName: "file"))
  var trace: String?

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

  @Flag(help: "Print each item, not only how many there are; of a trace, each page list.")
  var items = false

  @OptionGroup var output: OutputOptions

  @Argument(
    help: ArgumentHelp(
      "The page list: ADDRESS:LENGTH, ADDRESS, @FILE, or - for standard input.", valueName: "range"))
  var ranges: [String] = []

  func validate() throws {
    if trace != nil, !ranges.isEmpty || geometry.size != nil {
      throw ValidationError("--trace has lists and sizes of its own: leave out ranges and --size")
    }
    if trace == nil, ranges.isEmpty {
      throw ValidationError("which page list? ADDRESS:LENGTH, @FILE, - or --trace FILE")
    }
    if layout != nil && machine != nil || layout == nil && machine == nil && trace == nil {
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

  /// Nil if none is given.
  private func readMemory() throws -> PlannedMemory? {
    if let layout { return try PlannedMemory(LayoutText.read(layout)) }
    guard let shape else { return nil }
    return try PlannedMemory(
      GuestLayout(
        backings: [try LayoutText.standIn("ram", shape.memory)], parts: shape.parts, source: .text))
  }

  private var limits: UdmabufLimits {
    var limits = UdmabufLimits.current()
    if let listLimit { limits.items = listLimit }
    if let sizeLimitMb {
      limits.bytes = sizeLimitMb.multipliedReportingOverflow(by: 1 << 20).overflow ? .max : sizeLimitMb << 20
    }
    return limits
  }

  func run() throws {
    let (memory, planner) = (try readMemory(), ListPlanner(limits: limits, withItems: items))
    if let trace {
      var replay = TraceReplay(trace, planner, in: memory)
      let facts = try replay.read()
      return try output.print(facts, facts.text)
    }
    guard let memory else { preconditionFailure("validate has looked") }
    let image = geometry.size == nil ? nil : try geometry.layout(memory: .max)
    var facts = try planner.facts(in: memory, needed: image?.bytes) { pages in
      try RangeList.read(ranges) { pages.add($0) }
    }
    if let shape, shape.dependsOnProcessor, !shape.isAMD {
      facts.note =
        "with an AMD processor QEMU 7.1 and later puts all RAM above 4 GiB of this machine at 1 TiB: say --amd"
    }
    try output.print(facts, facts.text)
  }
}

extension MachineShape.Machine: ExpressibleByArgument {}

/// A layout, and the table that lists are resolved with in it.
struct PlannedMemory {
  let layout: GuestLayout
  let table: GuestMemory

  init(_ layout: GuestLayout) throws { (self.layout, table) = (layout, try layout.memory()) }
}

/// Says what page lists become.
struct ListPlanner {
  let limits: UdmabufLimits
  let withItems: Bool

  /// - Parameters:
  ///   - needed: the bytes of the image or the blob that the pages are of; nil for all that there are.
  ///   - read: adds the entries of the list.
  func facts(
    in memory: PlannedMemory, needed: UInt64?, _ read: (inout JoinedPages) throws -> Void
  ) throws -> PlanFacts {
    var pages = JoinedPages(
      memory, upTo: needed.map(wholePages) ?? .max, completing: needed ?? .max,
      // The kernel takes nothing of a longer list.
      keeping: withItems ? .max : limits.items)
    try read(&pages)
    try pages.finish()
    return PlanFacts(pages, needed: needed, limits, memory.layout, withItems: withItems)
  }
}

/// What a page list would become.
struct PlanFacts: Encodable {
  struct Item: Encodable {
    let memory: String
    /// In the memory, in bytes.
    let offset, length: UInt64
  }
  struct Limits: Encodable, Equatable {
    let listLimit, sizeLimitMb: UInt64

    init(listLimit: UInt64, sizeLimitMb: UInt64) {
      (self.listLimit, self.sizeLimitMb) = (listLimit, sizeLimitMb)
    }

    init(_ limits: UdmabufLimits) {
      self.init(listLimit: limits.items, sizeLimitMb: limits.bytes >> 20)
    }
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
    self.limits = Limits(limits)
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

  static func line(_ needed: Limits, _ limits: Limits) -> String {
    "needs    list_limit \(needed.listLimit) (is \(limits.listLimit)), size_limit_mb \(needed.sizeLimitMb) (is "
      + "\(limits.sizeLimitMb))"
  }

  var text: String {
    var lines = [
      "entries  \(entries)", "items    \(itemCount) after joining neighbours",
      "size     \(size) bytes (\(bytes(size))), \(counted(pages, "page"))",
      Self.line(neededLimits, limits),
      "result   " + (reason.map { "shadow (\(cause ?? "")): \($0)" } ?? "lent"),
    ]
    if let note { lines.append("note     \(note)") }
    for item in items ?? [] {
      lines.append("item     \(hex(item.offset)):\(hex(item.length)) \(item.memory)")
    }
    return lines.joined(separator: "\n")
  }
}
