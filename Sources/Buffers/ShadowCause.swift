/// Why a guest's pages are copied, and not shown themselves.
package struct ShadowCause: Equatable, Sendable {
  /// The name in the log, the statistics and the documentation.
  package enum Name: String, Sendable, CaseIterable {
    /// The kernel allows fewer items in a list (`list_limit`).
    case listLimit
    /// The kernel allows fewer bytes (`size_limit_mb`).
    case sizeLimit
    /// The guest's RAM is not a memfd, or not sealed as udmabuf needs it.
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
    /// The sink cannot import the dma-buf.
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
    /// A cursor must be shown, and the screen has no plane for it.
    case noCursorPlane
    /// The guest transfers from another place than that of the rectangle in the image.
    case oddTransfer
    /// The guest took the pages back while they were shown.
    case detached
    /// It is read-only memory of the host, but a holder of a dma-buf of it could write to it.
    case readOnly
    /// The user wants copies.
    case chosen
  }

  package let name: Name
  /// The refusal with its value, the limit, and the remedy.
  package let message: String

  package init(_ name: Name, _ message: String) { (self.name, self.message) = (name, message) }

  /// The cause for an error of lending; nil if a copy does not help.
  package init?(_ error: LendError) {
    guard let name = error.cause else { return nil }
    self.init(name, error.description)
  }

  /// Whether the cause may pass at any time: root raises a limit, or other buffers go.
  package var mayPass: Bool { [.listLimit, .sizeLimit, .descriptorLimit].contains(name) }
}

/// The choice between lending and copying a guest's buffers.
package enum BackingChoice: String, Sendable, CaseIterable {
  /// Lent if possible, otherwise copied.
  case auto
  /// Lent, or an error to the guest.
  case lent
  /// Copied, always.
  case shadow
}
