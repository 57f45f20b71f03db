/// Why a guest's pages are not shown themselves, but copied.
package struct ShadowCause: Equatable, Sendable {
  /// As log, statistics and documentation call it.
  package enum Name: String, Sendable, CaseIterable {
    /// The kernel allows fewer items in a list (`list_limit`).
    case listLimit
    /// The kernel allows fewer bytes (`size_limit_mb`).
    case sizeLimit
    /// The guest's RAM is no memfd, or not sealed as udmabuf wants it.
    case notSealedMemfd
    /// This process may open no more descriptors (`RLIMIT_NOFILE`).
    case descriptorLimit
    /// There is no `/dev/udmabuf`.
    case noDevice
    /// This user may not open `/dev/udmabuf`.
    case noPermission
    /// An entry of the page list does not begin or end at a page.
    case unalignedEntry
    /// The page list covers less than the image.
    case shortBacking
    /// The kernel refused the dma-buf for another reason.
    case udmabuf
    /// The sink does not take the dma-buf in.
    case importRefused
    /// The kernel would give the sink's device a copy of the dma-buf, and write it back over it.
    case bounced
    case formatRefused
    case strideRefused
    /// The sink has no mode of the picture's size.
    case modeRefused
    /// The sink shows frames from their first pixel on only.
    case partRefused
    /// The sink shows buffers from their first byte on only.
    case offset
    /// The sink refused a framebuffer for another reason.
    case frameRefused
    /// There is a cursor to be shown, and no plane for it.
    case noCursorPlane
    /// The guest transfers from another place than that of the rectangle in the image.
    case oddTransfer
    /// The guest took the pages back while they were shown.
    case detached
    /// It is memory of the host that must not be written, and whoever got a dma-buf of it could write it.
    case readOnly
    /// The user wants copies.
    case chosen
  }

  package let name: Name
  /// What was refused, its value and the limit, and what to do about it.
  package let message: String

  package init(_ name: Name, _ message: String) { (self.name, self.message) = (name, message) }

  /// Why these pages cannot be lent; nil for what a copy does not help against.
  package init?(_ error: LendError) {
    guard let name = error.cause else { return nil }
    self.init(name, error.description)
  }

  /// What stood against lending may change at any time: root raises a limit, other buffers go.
  package var mayPass: Bool { [.listLimit, .sizeLimit, .descriptorLimit].contains(name) }
}

/// How a guest's buffers are to be shown.
package enum BackingChoice: String, Sendable, CaseIterable {
  /// Lent where that is possible, else copied.
  case auto
  /// Lent, or an error to the guest.
  case lent
  /// Copied, always.
  case shadow
}
