internal import CLinux
internal import Glibc
package import SystemPackage

/// Another process, held by a pidfd. All that is read here is of this process, never of a later one with the same number.
///
/// Only the same user and group, or a process with `CAP_SYS_PTRACE`, may look at its files and its memory map.
package final class RunningProcess: Sendable {
  /// Its number. No other process gets this number while this one runs.
  package let pid: Int32
  private let pidfd: FD

  /// The corresponding C function is `pidfd_open`.
  package init(_ pid: Int32) throws(ProcessError) {
    guard pid > 0 else { throw .none(pid) }
    self.pid = pid
    do throws(Errno) { pidfd = FD(adopting: try retrying { cl_pidfd_open(pid) }) } catch {
      throw error == .noSuchProcess || error == .invalidArgument
        ? .none(pid) : .other(pid, "pidfd_open", error)
    }
  }

  /// Whether the process still runs. Its end makes the pidfd readable.
  package var isRunning: Bool {
    (try? pidfd.isReadable(within: .zero)) == false
  }

  /// The name that the process gave itself, at most 15 bytes.
  package func name() throws(ProcessError) -> String {
    String(try text("comm").dropLast())
  }

  /// Its arguments, the program's name first.
  package func arguments() throws(ProcessError) -> [String] {
    try text("cmdline").split(separator: "\0", omittingEmptySubsequences: false).dropLast().map(String.init)
  }

  /// Its effective user. Everybody may read this, even of a process that hides everything else.
  package func user() throws(ProcessError) -> UInt32 {
    let line = try text("status").split(separator: "\n").first { $0.hasPrefix("Uid:") }
    // The real user, the effective one, and two more.
    let numbers = line?.split(whereSeparator: \.isWhitespace).dropFirst().compactMap { UInt32($0) } ?? []
    guard numbers.count == 4 else { throw .other(pid, "/proc/\(pid)/status", .invalidArgument) }
    return numbers[1]
  }

  /// The text of a file in its directory of procfs, at most 16 MiB.
  package func text(_ name: String) throws(ProcessError) -> String {
    try reading(name) { path throws(Errno) in try readText(path, upTo: 16 << 20) }
  }

  /// A descriptor of our own for the file that the process has open as `number`.
  /// The corresponding C function is `pidfd_getfd`.
  package func descriptor(_ number: CInt) throws(ProcessError) -> FD {
    do throws(Errno) {
      return FD(
        adopting: try pidfd.withRaw { pidfd throws(Errno) in try retrying { cl_pidfd_getfd(pidfd, number) } })
    } catch {
      switch error {
      case .badFileDescriptor: throw .noDescriptor(pid, number)
      case .noSuchProcess: throw .ended(pid)
      case .notPermitted: throw .refused(pid, "descriptor \(number)")
      default: throw .other(pid, "pidfd_getfd of \(number)", error)
      }
    }
  }

  /// Its open files, by number. They may change while they are listed.
  package func openFiles() throws(ProcessError) -> [OpenFile] {
    let directory = FilePath("/proc/\(pid)/fd")
    let names = try reading("fd") { path throws(Errno) in
      _ = try FD.open(path, writable: false)
      return directoryEntries(path)
    }
    let files = names.compactMap { name -> OpenFile? in
      guard let number = CInt(name), let target = linkTarget(directory.appending(name)) else { return nil }
      return OpenFile(number: number, target: target)
    }
    guard isRunning else { throw .ended(pid) }
    return files.sorted { $0.number < $1.number }
  }

  /// The number under which the process has a file open, or nil. It may change at any time.
  package func number(of files: [OpenFile], device: UInt64, inode: UInt64) -> CInt? {
    files.first { file in
      let status = try? FileStatus(of: FilePath("/proc/\(pid)/fd/\(file.number)"))
      return status?.device == device && status?.inode == inode
    }?.number
  }

  /// Its memory map, by address.
  package func mappings() throws(ProcessError) -> [ProcessMapping] {
    try text("maps").split(separator: "\n").compactMap { ProcessMapping($0) }
  }

  private func reading<Result>(
    _ name: String, _ body: (FilePath) throws(Errno) -> Result
  ) throws(ProcessError) -> Result {
    let result: Result
    do throws(Errno) { result = try body(FilePath("/proc/\(pid)/\(name)")) } catch {
      if !isRunning { throw .ended(pid) }
      switch error {
      case .permissionDenied, .notPermitted: throw .refused(pid, name)
      default: throw .other(pid, "/proc/\(pid)/\(name)", error)
      }
    }
    // While the process runs, no other one has its number.
    guard isRunning else { throw .ended(pid) }
    return result
  }
}

/// An open file of a process.
package struct OpenFile: Hashable, Sendable {
  /// The descriptor's number in that process.
  package let number: CInt
  /// A path, or the kernel's name for a file without one, such as `/memfd:NAME (deleted)` or `/dmabuf:NAME`.
  package let target: String

  /// Whether it is a memfd.
  package var isMemfd: Bool { target.hasPrefix("/memfd:") }
  /// Whether it is a dma-buf.
  package var isDMABuf: Bool { target.hasPrefix("/dmabuf:") }
}

/// A line of `/proc/PID/maps`: a piece of a process's memory, and the file behind it.
package struct ProcessMapping: Equatable, Sendable {
  /// The first address, and the first one behind it.
  package let start, end: UInt64
  /// Whether writes reach the file and everybody who has it mapped.
  package let isShared: Bool
  /// The offset of `start` in the file.
  package let offset: UInt64
  /// The file's inode; 0 for memory without a file.
  package let inode: UInt64
  /// The file's device, as `FileStatus.device` has it.
  package let device: UInt64
  /// Empty for memory without a file.
  package let path: String

  /// Nil for any other line.
  init?(_ line: Substring) {
    let fields = line.split(separator: " ", maxSplits: 5)
    guard fields.count >= 5 else { return nil }
    let bounds = fields[0].split(separator: "-")
    let numbers = fields[3].split(separator: ":")
    guard bounds.count == 2, let start = UInt64(bounds[0], radix: 16), let end = UInt64(bounds[1], radix: 16),
      start < end, let offset = UInt64(fields[2], radix: 16), numbers.count == 2,
      let major = UInt64(numbers[0], radix: 16), let minor = UInt64(numbers[1], radix: 16),
      let inode = UInt64(fields[4])
    else { return nil }
    (self.start, self.end, self.offset, self.inode) = (start, end, offset, inode)
    isShared = fields[1].last == "s"
    device = DeviceNumber(major: major, minor: minor).packed
    path = fields.count == 6 ? String(fields[5].drop { $0 == " " }) : ""
  }
}

/// Why a process could not be looked into.
package enum ProcessError: Error, Equatable, CustomStringConvertible {
  /// No process has this number.
  case none(Int32)
  /// The process ended meanwhile.
  case ended(Int32)
  /// The process has no descriptor of this number.
  case noDescriptor(Int32, CInt)
  /// The kernel does not let this process look at the named thing.
  case refused(Int32, String)
  /// Another failure of the named call.
  case other(Int32, String, Errno)

  /// What was refused, and what to do about it.
  package var description: String {
    switch self {
    case .none(let pid): "there is no process \(pid)"
    case .ended(let pid): "process \(pid) has ended"
    case .noDescriptor(let pid, let number):
      "process \(pid) has no descriptor \(number); /proc/\(pid)/fd lists them"
    case .refused(let pid, let what):
      "process \(pid) may not be looked into (\(what)): run as its user and group, or with CAP_SYS_PTRACE "
        + (geteuid() == 0 ? "(which root lacks here, as in a container)" : "(as root)") + Self.yama
    case .other(let pid, let what, let error): "process \(pid), \(what): \(error)"
    }
  }

  /// What the Yama security module adds to the rule.
  private static var yama: String {
    guard let scope = (try? readText("/proc/sys/kernel/yama/ptrace_scope"))?.first?.wholeNumberValue,
      scope > 0
    else {
      return ""
    }
    return scope == 3
      ? "; kernel.yama.ptrace_scope is 3: no process may look into another one until the next boot"
      : "; kernel.yama.ptrace_scope is \(scope): without CAP_SYS_PTRACE only "
        + "\(scope == 1 ? "a parent may look into its children" : "root may")"
  }
}

/// The numbers of all visible processes of this host.
package func processNumbers() -> [Int32] {
  directoryEntries("/proc").compactMap { Int32($0) }.sorted()
}
