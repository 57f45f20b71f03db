package import Guest
package import Linux
package import SystemPackage

/// Why the RAM of a running QEMU is not known.
package enum QEMUError: Error, CustomStringConvertible {
  case noMonitor(FilePath, Errno)
  /// Nobody greets on the monitor.
  case busy(FilePath)
  case monitor(FilePath, String)
  /// The first monitors of a command line do not lead to its process, and more are not tried.
  case tooManyMonitors(Int32, count: Int, tried: Int)
  /// The process behind a monitor cannot be told.
  case noProcess(FilePath)
  case process(ProcessError)
  /// What QEMU prints is not what this was written for.
  case unknownForm(String)
  /// The layout was another one each time it was looked at.
  case changing
  /// The monitor's addresses are not in the process's memory map.
  case otherProcess(Int32, FilePath, UInt64)
  /// Without a monitor: what stands against a proof.
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
      "nobody greets on \(path): it is no QMP monitor, or QEMU serves another client there, which it does one at a "
        + "time; end that client, or start QEMU with a second -qmp"
    case .tooManyMonitors(let pid, let count, let tried):
      "the command line of process \(pid) names \(count) monitors, and the first \(tried), after which no more are tried, do not "
        + "answer for it"
    case .monitor(let path, let what): "the monitor \(path): \(what)"
    case .noProcess(let path):
      "the process behind \(path) is of another pid namespace"
    case .process(let error): "\(error)"
    case .unknownForm(let line): "QEMU's memory layout has a form that is not known: «\(line)»"
    case .changing: "the guest's memory layout changes all the time; try again once the guest has booted"
    case .otherProcess(let pid, let path, let address):
      "\(path) is not the monitor of process \(pid): that has nothing at \(hex(address))"
    case .unproven(let pid, let why):
      "the memory layout of process \(pid) cannot be proven without its monitor: \(why)"
    case .memory(let error): "\(error)"
    }
  }
}
