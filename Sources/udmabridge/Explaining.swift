import Libvirt
import Presenting
import QEMU
import Sandbox
import SystemPackage
import Varlink

/// An error of a library, with the options of this program that help.
func explained(_ error: any Error) -> String {
  switch error {
  case let error as QEMUError: "\(error)\(error.remedy)"
  case let error as VarlinkClientError: "\(error)\(error.remedy)"
  case let error as LibvirtError: error.explained
  case is SandboxError: "\(error); --sandbox off runs without it"
  case PresentingError.reserveIsUsedUp:
    "\(error): the sandbox allows no new connection; start the program again, or with --sandbox off"
  default: "\(error)"
  }
}

extension QEMUError {
  fileprivate var remedy: String {
    switch self {
    case .tooManyMonitors: "; name the right one with --qmp SOCKET"
    case .noProcess: "; add --guest PID to --qmp"
    case .otherProcess: "; name QEMU itself with --guest PID"
    case .unproven: "; give its QMP socket with --qmp SOCKET"
    default: ""
    }
  }
}

extension VarlinkClientError {
  fileprivate var remedy: String {
    switch self {
    case .connecting(let path, .noSuchFileOrDirectory): ": start vhost-user-udmabuf with --control \(path)"
    case .closed: "; vhost-user-udmabuf says with --control-allow who may use it"
    case .answered("org.varlink.service.InterfaceNotFound", _):
      "; for lent buffers start vhost-user-udmabuf with --port"
    default: ""
    }
  }
}

extension LibvirtError {
  fileprivate var explained: String {
    switch self {
    case .refused(let problems): problems.map { "\($0)\n  -> \($0.remedy)" }.joined(separator: "\n")
    case .noLibrary: "\(self), or use --stdin"
    case .session:
      "\(self): by hand, udmabridge libvirt enable --stdin --option control=$XDG_RUNTIME_DIR/NAME.control changes a "
        + "definition for virsh define, and --control SOCKET takes the place of --domain NAME (docs/libvirt.md)"
    case .withoutSecrets: "\(self), or look at the difference with --dry-run"
    case .transient: "\(self), with --stdin"
    default: "\(self)"
    }
  }
}
