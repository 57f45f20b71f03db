internal import Linux
internal import SystemPackage
internal import Varlink

/// Why a lender's request is refused: an error of `io.udmabridge.Lender`, and the reason.
struct LendRefusal: Error, Equatable {
  let name: String
  let reason: String

  init(_ name: String, _ reason: String) { (self.name, self.reason) = (name, reason) }

  /// The helper's refusal keeps its name, if lenders know it.
  init(_ refusal: HostRefusal) {
    switch refusal.class {
    case "NoSuchBuffer", "OutOfRange", "AlreadyLent", "NoSuchAudience", "TooManyBuffers", "MetadataTooLong",
      "NotLent", "MemoryOfHost":
      self.init(refusal.class, refusal.desc)
    case "LineTooLong": self.init("MetadataTooLong", refusal.desc)
    case AgentSession.ended.class: self.init("NotConnected", refusal.desc)
    case "NoSuchDevice", "StaleDevice": self.init("NoCard", "\(refusal.desc); try again in a moment")
    default: self.init("Refused", "\(refusal.class): \(refusal.desc)")
    }
  }

  static let notConnected = LendRefusal(
    "NotConnected", "no helper of the host answers at the port; Watch tells when one does")
  static let noCard = LendRefusal(
    "NoCard",
    "this guest has no virtio-gpu that the helper at the port serves, or the agent may not open its render node"
  )
  static let noSuchBuffer = LendRefusal("NoSuchBuffer", "this user lends no such buffer, or no longer")

  /// A dma-buf that the card cannot take.
  static func cannotImport(_ error: Errno, exporter: String?) -> LendRefusal {
    let what = "the dma-buf\(exporter.map { " of \($0)" } ?? "")"
    guard error == .operationNotSupportedByDevice || error == .invalidArgument || error == .noFunction else {
      return LendRefusal("CannotImport", "the card refuses \(what): \(error)")
    }
    let release = (try? readText("/proc/sys/kernel/osrelease"))?.prefix { $0 != "\n" } ?? "?"
    return LendRefusal(
      "CannotImport",
      "kernel \(release) cannot give the card \(what) (\(error)): 6.14 and later can, for a device with blobs and without VIRGL; "
        + "let it be copied once, or lend a buffer that the card makes (Make)")
  }

  var varlink: VarlinkError {
    VarlinkError("\(lenderInterfaceName).\(name)", "reason", .text(reason))
  }
}

/// By which programs of the guest lend.
let lenderInterfaceName = "io.udmabridge.Lender"
