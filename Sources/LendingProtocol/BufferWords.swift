/// What the lender agrees to. No protection: a dma-buf of a guest's pages can always be written.
package enum BufferUse: String, Sendable, CaseIterable {
  case read, write
  /// It is lent to be filled by an importer.
  case fill
}

/// What the CPU does with a buffer between the begin and the end of an access.
package enum AccessMode: String, Sendable, CaseIterable {
  case read, write, readWrite
}

/// Why a buffer ended without its lender's word.
package enum RevocationReason: String, Sendable, CaseIterable {
  /// The guest's driver took its pages back, as it does when the process that had them ends.
  case resourceGone
  /// The device's driver started anew.
  case deviceReset
  /// The agent's session ended: another agent, or QEMU is gone.
  case sessionEnded
}
