/// The agreed use. It protects nothing: a dma-buf of a guest's pages can always be written.
package enum BufferUse: String, Sendable, CaseIterable {
  case read, write
  /// It is lent to be filled by an importer.
  case fill
}

/// The CPU's use of a buffer between the begin and the end of an access.
package enum AccessMode: String, Sendable, CaseIterable {
  case read, write, readWrite
}

/// Why a buffer ended without its lender's request.
package enum RevocationReason: String, Sendable, CaseIterable {
  /// The guest's driver took its pages back, as it does at the end of the process that had them.
  case resourceGone
  /// The device's driver started anew.
  case deviceReset
  /// The agent's session ended: another agent, or QEMU is gone.
  case sessionEnded
}
