import ArgumentParser
import Guest
import LendingProtocol
import Libvirt
import Linux
import Programs
import QEMU
import SystemPackage
import Udmabuf

/// The memory that is meant: a file of this process or of another one, or a guest's memory.
struct FileOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "An inherited descriptor; with --pid, a descriptor of that process.", valueName: "number"))
  var fd: Int32?

  @Option(help: ArgumentHelp("A path to the memfd, such as /proc/PID/fd/N.", valueName: "path"))
  var path: String?

  @Option(
    help: ArgumentHelp(
      "The process that has --fd. You must be its user and group, or have CAP_SYS_PTRACE.",
      valueName: "pid"))
  var pid: Int32?

  /// The file's name in errors and output.
  var name: String {
    if let path { return path }
    return pid.map { "descriptor \(fd ?? -1) of process \($0)" } ?? "descriptor \(fd ?? -1)"
  }

  var isGiven: Bool { fd != nil || path != nil || pid != nil }

  func validate() throws {
    if path != nil, fd != nil || pid != nil {
      throw ValidationError("--path excludes --fd and --pid: leave one of them out")
    }
    if pid != nil, fd == nil {
      throw ValidationError("--pid PID needs the number of a descriptor too: --fd N")
    }
  }

  func open(writable: Bool) throws -> FD {
    do throws(Errno) {
      if let path { return try FD.open(FilePath(path), writable: writable) }
      if pid == nil { return try FD.inherited(fd ?? -1) }
    } catch {
      switch (path, error) {
      case (nil, _):
        throw Trouble(
          "\(name) is not open here: let the shell open it, or name its process with --pid")
      case (let path?, .noSuchAddressOrDevice) where path.hasPrefix("/proc/"):
        let words = path.split(separator: "/")
        throw Trouble(
          "\(path) cannot be opened by its path: it is a dma-buf, a socket or the like. Take it with --pid "
            + "\(words.dropFirst().first ?? "PID") --fd \(words.last ?? "N")")
      case (_, .permissionDenied):
        throw Trouble(
          "\(name) may not be opened: run as the user and group of its process, or with CAP_SYS_PTRACE (as root)"
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
      "A buffer that a guest lends, by its id (udmabridge buffers list); needs --control or --domain.",
      valueName: "id"))
  var buffer: BufferID?

  @Option(
    help: ArgumentHelp(
      "The control socket of the buffer's helper (vhost-user-udmabuf --control).", valueName: "socket"))
  var control: String?
}

struct GuestOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "A guest's memory, by QEMU's monitor: the socket of -qmp unix:SOCKET,server=on,wait=off.",
      valueName: "socket"))
  var qmp: String?

  @Option(
    help: ArgumentHelp(
      "A guest's memory, by the process of its QEMU. The command line of the process must name a monitor, or prove the layout without one.",
      valueName: "pid"))
  var guest: Int32?

  @Option(
    help: ArgumentHelp(
      "A guest's memory, by a running domain of libvirt. libvirt marks the domain as tainted, because its monitor is used.",
      valueName: "name"))
  var domain: String?

  @OptionGroup var connection: ConnectOption

  var isGiven: Bool { qmp != nil || guest != nil || domain != nil }

  func validate() throws {
    if domain != nil, qmp != nil || guest != nil {
      throw ValidationError("--domain excludes --qmp and --guest: leave one of them out")
    }
  }

  func open() throws -> RunningQEMU {
    if let domain {
      printError(
        "udmabridge: libvirt marks domain \(domain) as tainted (custom-monitor), because its monitor is used")
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
      "ADDRESS:LENGTH, or ADDRESS for one page: offsets in the file, or the guest's physical addresses. @FILE reads a list from a file, - one from standard input, up to its end or the word end. Blanks, commas or line ends separate ranges, and # begins a comment. Without ranges, all of the file is meant.",
      valueName: "range"))
  var ranges: [String] = []

  func validate() throws {
    if let buffer = lent.buffer {
      if file.isGiven || guest.qmp != nil || guest.guest != nil || !ranges.isEmpty {
        throw ValidationError(
          "--buffer \(buffer) names the whole memory: leave out ranges, files, --qmp and --guest")
      }
      if (lent.control == nil) == (guest.domain == nil) {
        throw ValidationError("whose buffer? --buffer needs --control SOCKET or --domain NAME")
      }
      return
    }
    if lent.control != nil { throw ValidationError("--control belongs to --buffer ID") }
    if file.isGiven == guest.isGiven {
      throw ValidationError(
        "say which memory: --fd N, --path PATH, --pid PID --fd N, --qmp SOCKET, --guest PID, --domain NAME or --buffer ID"
      )
    }
    if guest.isGiven, ranges.isEmpty {
      throw ValidationError("which ranges of the guest's memory? ADDRESS:LENGTH")
    }
  }

  /// - Parameter whole: ranges must be whole pages, which udmabuf needs.
  func open(writable: Bool, whole: Bool) throws -> Selection {
    if let buffer = lent.buffer {
      let client = try BuffersClient(HelperChoice.path(control: lent.control, domain: guest.domain))
      return Selection(try LentMemory(client, buffer, forWriting: false))
    }
    let list = try RangeList(ranges)
    let wanted = list.ranges
    if wanted.isEmpty, !ranges.isEmpty {
      throw Trouble("\(ranges.joined(separator: " ")) names no range: give ADDRESS:LENGTH at least once")
    }
    if guest.isGiven {
      return try Selection(wanted, of: guest.open().layout(), whole: whole, isKept: list.isKept)
    }
    let fd = try file.open(writable: writable)
    if (try? fd.fileKind()) == .dmaBuf {
      guard wanted.isEmpty else {
        throw Trouble("\(file.name) is a dma-buf, which is taken as a whole: leave the ranges out")
      }
      return Selection(try DMABuf(adopting: fd))
    }
    return try Selection(wanted, of: Memfd(adopting: fd), named: file.name, whole: whole, isKept: list.isKept)
  }
}
