import ArgumentParser
import Guest
import LendingProtocol
import Libvirt
import Linux
import Programs
import QEMU
import SystemPackage
import Udmabuf

/// Which memory: a file of this process or of another one, or a guest's.
struct FileOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A descriptor that this process inherited; with --pid, one of that process.", valueName: "number"))
  var fd: Int32?

  @Option(help: ArgumentHelp("A path that leads to it, such as /proc/PID/fd/N.", valueName: "path"))
  var path: String?

  @Option(
    help: ArgumentHelp(
      "The process whose --fd is meant. It takes the same user and group, or CAP_SYS_PTRACE.",
      valueName: "pid"))
  var pid: Int32?

  /// How errors and output call it.
  var name: String {
    if let path { return path }
    return pid.map { "descriptor \(fd ?? -1) of process \($0)" } ?? "descriptor \(fd ?? -1)"
  }

  var isGiven: Bool { fd != nil || path != nil || pid != nil }

  func validate() throws {
    if path != nil, fd != nil || pid != nil {
      throw ValidationError("--path stands alone, without --fd and --pid")
    }
    if pid != nil, fd == nil {
      throw ValidationError("--pid PID wants the number of a descriptor beside it: --fd N")
    }
  }

  func open(writable: Bool) throws -> FD {
    do throws(Errno) {
      if let path { return try FD.open(FilePath(path), writable: writable) }
      if pid == nil { return try FD.inherited(fd ?? -1) }
    } catch {
      switch (path, error) {
      case (nil, _):
        throw Trouble("\(name) is not open here: let the shell open it, or name its process with --pid")
      case (let path?, .noSuchAddressOrDevice) where path.hasPrefix("/proc/"):
        let words = path.split(separator: "/")
        throw Trouble(
          "\(path) cannot be opened by its path, as a dma-buf and a socket cannot: take it with --pid "
            + "\(words.dropFirst().first ?? "PID") --fd \(words.last ?? "N")")
      case (_, .permissionDenied):
        throw Trouble(
          "\(name) may not be opened: be the same user and group as its process, or have CAP_SYS_PTRACE (run as root)"
        )
      default: throw Trouble("\(name) cannot be opened: \(error)")
      }
    }
    return try RunningProcess(pid ?? 0).descriptor(fd ?? -1)
  }
}

struct LentOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A buffer that a guest lends, by its id (udmabridge buffers list); with --control, or with --domain.",
      valueName: "id"))
  var buffer: BufferID?

  @Option(
    help: ArgumentHelp(
      "The socket that its vhost-user-udmabuf was given with --control.", valueName: "socket"))
  var control: String?
}

struct GuestOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A guest's memory: QEMU's monitor, a socket that QEMU has by -qmp unix:SOCKET,server=on,wait=off.",
      valueName: "socket"))
  var qmp: String?

  @Option(
    help: ArgumentHelp(
      "A guest's memory: the process of its QEMU. Its monitor is looked for on its command line; without one the layout must follow from that alone.",
      valueName: "pid"))
  var guest: Int32?

  @Option(
    help: ArgumentHelp(
      "A guest's memory: a running domain of libvirt, which marks it as tainted because its monitor is used.",
      valueName: "name"))
  var domain: String?

  @OptionGroup var connection: ConnectOption

  var isGiven: Bool { qmp != nil || guest != nil || domain != nil }

  func validate() throws {
    if domain != nil, qmp != nil || guest != nil {
      throw ValidationError("--domain stands alone, without --qmp and --guest")
    }
  }

  func open() throws -> RunningQEMU {
    if let domain {
      printError("udmabridge: domain \(domain) becomes tainted (custom-monitor) by this")
      return try connection.open().domain(domain).qemu()
    }
    if let qmp { return try RunningQEMU(monitor: FilePath(qmp), pid: guest) }
    return try RunningQEMU(pid: guest ?? 0)
  }
}

/// The memory that create, show and dump work on.
struct MemoryOptions: ParsableArguments {
  @OptionGroup(title: "Memory: a memfd or a dma-buf") var file: FileOptions
  @OptionGroup(title: "Memory: a guest's") var guest: GuestOptions
  @OptionGroup(title: "Memory: what a guest lends") var lent: LentOptions

  @Argument(
    help: ArgumentHelp(
      "ADDRESS:LENGTH, or ADDRESS for one page: offsets in the file, or the guest's physical addresses. @FILE reads a list from a file, - from standard input, up to its end or the word end: ranges between blanks, commas or line ends, and comments after #. None means all of a file.",
      valueName: "range"))
  var ranges: [String] = []

  func validate() throws {
    if let buffer = lent.buffer {
      if file.isGiven || guest.qmp != nil || guest.guest != nil || !ranges.isEmpty {
        throw ValidationError(
          "--buffer \(buffer) is all of the memory: leave out ranges, files, --qmp and --guest")
      }
      if (lent.control == nil) == (guest.domain == nil) {
        throw ValidationError("whose buffer? --control SOCKET or --domain NAME beside --buffer")
      }
      return
    }
    if lent.control != nil { throw ValidationError("--control is about --buffer ID") }
    if file.isGiven == guest.isGiven {
      throw ValidationError(
        "say which memory: --fd N, --path PATH, --pid PID --fd N, --qmp SOCKET, --guest PID, --domain NAME or --buffer ID"
      )
    }
    if guest.isGiven, ranges.isEmpty {
      throw ValidationError("which ranges of the guest's memory? ADDRESS:LENGTH")
    }
  }

  /// - Parameter whole: ranges must be whole pages, as udmabuf wants them.
  func open(writable: Bool, whole: Bool) throws -> Selection {
    if let buffer = lent.buffer {
      let client = try BuffersClient(HelperChoice.path(control: lent.control, domain: guest.domain))
      return Selection(try LentMemory(client, buffer, forWriting: false))
    }
    let list = try RangeList(ranges)
    let wanted = list.ranges
    if wanted.isEmpty, !ranges.isEmpty {
      throw Trouble("\(ranges.joined(separator: " ")) names no range at all")
    }
    if guest.isGiven {
      return try Selection(wanted, of: guest.open().layout(), whole: whole, isKept: list.isKept)
    }
    let fd = try file.open(writable: writable)
    if (try? fd.fileKind()) == .dmaBuf {
      guard wanted.isEmpty else { throw Trouble("\(file.name) is a dma-buf, of which no part can be taken") }
      return Selection(try DMABuf(adopting: fd))
    }
    return try Selection(wanted, of: Memfd(adopting: fd), named: file.name, whole: whole, isKept: list.isKept)
  }
}
