package import Guest
package import Linux
package import SystemPackage

/// Why the layout of a running QEMU's RAM is unknown.
package enum QEMUError: Error, CustomStringConvertible {
  case noMonitor(FilePath, Errno)
  /// The monitor does not greet.
  case busy(FilePath)
  case monitor(FilePath, String)
  /// The first monitors of a command line do not belong to its process, and no more are tried.
  case tooManyMonitors(Int32, count: Int, tried: Int)
  /// The process behind a monitor cannot be determined.
  case noProcess(FilePath)
  case process(ProcessError)
  /// QEMU's output has an unknown form.
  case unknownForm(String)
  /// The layout changed at each look.
  case changing
  /// The monitor's addresses are not in the process's memory map.
  case otherProcess(Int32, FilePath, UInt64)
  /// Without a monitor: the obstacle to a proof.
  case unproven(Int32, String)
  case memory(GuestMemoryError)

  /// What is not known.
  package var description: String {
    switch self {
    case .noMonitor(let path, .noSuchFileOrDirectory):
      "there is no monitor \(path); start QEMU with -qmp unix:\(path),server=on,wait=off"
    case .noMonitor(let path, .connectionRefused):
      "nobody listens on \(path) any more: QEMU has ended"
    case .noMonitor(let path, let error): "the monitor \(path) cannot be reached: \(error)"
    case .busy(let path):
      "no greeting on \(path): it is not a QMP monitor, or QEMU serves another client there, and it serves only one at a "
        + "time; end that client, or start QEMU with a second -qmp"
    case .tooManyMonitors(let pid, let count, let tried):
      "the command line of process \(pid) names \(count) monitors, and the first \(tried) do not belong to it; no more are "
        + "tried"
    case .monitor(let path, let what): "the monitor \(path): \(what)"
    case .noProcess(let path):
      "the process behind \(path) is of another pid namespace"
    case .process(let error): "\(error)"
    case .unknownForm(let line): "QEMU's memory layout has an unknown form: «\(line)»"
    case .changing: "the guest's memory layout keeps changing; try again after the guest has booted"
    case .otherProcess(let pid, let path, let address):
      "\(path) is not the monitor of process \(pid): that process has nothing mapped at \(hex(address))"
    case .unproven(let pid, let why):
      "the memory layout of process \(pid) cannot be proven without its monitor: \(why)"
    case .memory(let error): "\(error)"
    }
  }
}
