package import Buffers

/// A virtio-gpu whose driver lends, as the port sees it.
package protocol PortDevice: AnyObject {
  /// Changes at each fresh start of the rings and each reset, when resource numbers begin again. At most 2^53.
  var epoch: UInt64 { get }

  /// Runs `body` after every command now in the control queue was taken, or when the queue stops. Runs it at once if the queue
  /// is empty or does not run.
  func afterQueue(_ body: @escaping () -> Void)

  /// The pages of a resource, with a dma-buf. If they are not lent yet, this tries once more.
  func lendablePages(of resource: UInt32) throws(PortResourceError) -> Buffer

  /// The first bytes of a resource's pages; nil if there is no such resource, or it has fewer.
  func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]?
}

/// Why a resource cannot be lent.
package enum PortResourceError: Error, Equatable {
  /// There is none of this number, or it has no pages.
  case noSuchResource
  /// The pages could only be copied, for this cause, with its value, limit and remedy.
  case notLent(String)
  case memoryOfHost
}

extension PortError {
  init(_ error: PortResourceError, _ resource: UInt32) {
    switch error {
    case .noSuchResource: self.init(.noSuchResource, "resource \(resource) does not exist or has no pages")
    case .notLent(let why): self.init(.notLent, why)
    case .memoryOfHost:
      self.init(.memoryOfHost, "resource \(resource) is memory of the host, which cannot be lent")
    }
  }
}
