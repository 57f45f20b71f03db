package import Buffers

/// A virtio-gpu whose driver lends, as the port sees it.
package protocol PortDevice: AnyObject {
  /// Another one after each fresh start of the rings and each reset: resource numbers begin again. At most 2^53.
  var epoch: UInt64 { get }

  /// Runs `body` once every command that is in the control queue now has been taken: at once if the queue is empty or does not
  /// run; when it stops, if that is before.
  func afterQueue(_ body: @escaping () -> Void)

  /// The pages of a resource, which are lent themselves. One more try is made if they could only be copied.
  func lendablePages(of resource: UInt32) throws(PortResourceError) -> Buffer

  /// The first bytes of a resource's pages; nil if there is no such resource, or it has fewer.
  func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]?
}

/// Why a resource cannot be lent.
package enum PortResourceError: Error, Equatable {
  /// There is none of this number, or it has no pages.
  case noSuchResource
  /// They could only be copied: the cause, its value, limit and remedy.
  case notLent(String)
  case memoryOfHost
}

extension PortError {
  init(_ error: PortResourceError, _ resource: UInt32) {
    switch error {
    case .noSuchResource: self.init(.noSuchResource, "resource \(resource) does not exist or has no pages")
    case .notLent(let why): self.init(.notLent, why)
    case .memoryOfHost:
      self.init(.memoryOfHost, "resource \(resource) is memory of the host, which is nothing to lend")
    }
  }
}
