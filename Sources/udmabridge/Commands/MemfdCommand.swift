import ArgumentParser
import Linux
import Programs
import SystemPackage

/// A seal, as the command line names it.
enum SealName: String, CaseIterable, ExpressibleByArgument {
  case seal, shrink, grow, write
  case futureWrite = "future-write"

  var seal: Seals {
    switch self {
    case .seal: .seal
    case .shrink: .shrink
    case .grow: .grow
    case .write: .write
    case .futureWrite: .futureWrite
    }
  }
}

/// The seals to set: names between commas, or `none`.
struct SealList: ExpressibleByArgument {
  let seals: Seals

  init?(argument: String) {
    if argument == "none" {
      seals = []
      return
    }
    var seals: Seals = []
    for word in argument.split(separator: ",", omittingEmptySubsequences: false) {
      guard let name = SealName(rawValue: String(word)) else { return nil }
      seals.insert(name.seal)
    }
    self.seals = seals
  }

  init(_ seals: Seals) { self.seals = seals }
  var defaultValueDescription: String { seals.names.joined(separator: ",") }
}

struct MemfdCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "memfd",
    abstract: "Create a sealed memfd and run a command with it.",
    discussion: """
      A memfd can be the RAM of a QEMU, the memory of an ivshmem device, or that of two QEMUs at once:

        udmabridge memfd --size 64M -- qemu-system-x86_64 ... \\
          -object memory-backend-file,id=shared,size=64M,share=on,mem-path=/proc/self/fd/{} \\
          -device ivshmem-plain,memdev=shared

      udmabridge create makes dma-bufs of its ranges.
      """)

  @Option(help: ArgumentHelp("The memfd's size, in whole pages.", valueName: "size"))
  var size: Quantity

  @Option(
    help: ArgumentHelp("Use huge pages of this size, such as 2M. They must be reserved.", valueName: "size"))
  var huge: Quantity?

  @Option(
    help: ArgumentHelp(
      "The seals: seal, shrink, grow, write, future-write, with commas between them, or none. udmabuf needs shrink, and refuses a memfd with write or future-write.",
      valueName: "seals"))
  var seal = SealList([.shrink, .grow, .seal])

  @Option(help: ArgumentHelp("The memfd's name in /proc, at most 249 bytes.", valueName: "name"))
  var name = "udmabridge"

  @OptionGroup var output: OutputOptions
  @OptionGroup(title: "What becomes of it") var handover: HandoverOptions

  func validate() throws {
    let page = huge?.value ?? systemPageSize
    if let huge, huge.value.nonzeroBitCount != 1 {
      throw ValidationError("--huge \(huge) is not a power of two")
    }
    if size.value == 0 || page == 0 || size.value % page != 0 {
      throw ValidationError("--size \(size) is no multiple of the page size \(Quantity(page))")
    }
    if name.utf8.count > 249 { throw ValidationError("--name has at most 249 bytes") }
  }

  func run() throws {
    let memfd: Memfd
    do throws(Errno) {
      memfd = try Memfd.create(
        name: name, size: size.value, seals: seal.seals, pages: huge.map { .huge($0.value) } ?? .system)
    } catch { throw Trouble(Self.why(error, size, huge)) }
    let facts = HandoverOptions.Facts(kind: .memfd, size: size.value, inode: memfd.status.inode, name: name)
    try memfd.withDescriptor { try handover.perform($0, facts, output) }
  }

  private static func why(_ error: Errno, _ size: Quantity, _ huge: Quantity?) -> String {
    let what = "no memfd of \(size)" + (huge.map { " in huge pages of \($0)" } ?? "")
    switch error {
    case .invalidArgument where huge != nil, .noSuchFileOrDirectory where huge != nil,
      .operationNotSupportedByDevice where huge != nil:
      return "\(what): the kernel has no huge pages of that size; /sys/kernel/mm/hugepages lists its sizes"
    case .noMemory where huge != nil:
      return "\(what): too few are free; as root: echo COUNT > /proc/sys/vm/nr_hugepages"
    case .fileTooLarge: return "\(what): that is more than a file can have"
    default: return "\(what): \(error)"
    }
  }
}
