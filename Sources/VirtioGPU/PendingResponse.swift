internal import Guest
internal import Scanout

/// An answer that waits: for a flip, for pages to come back, or for its turn among fenced ones.
final class PendingResponse {
  let head: UInt16
  let writable: [GuestRange]
  let header: ControlHeader
  let response: Response
  /// In nanoseconds of the monotonic clock; then it is answered whatever it waits for.
  let deadline: Int64
  /// Presentations that it waits for.
  private var flips: [(scanout: ScanoutID, sequence: UInt64)]
  /// Pages that it waits for.
  var pagesInUse = false

  init(
    head: UInt16, writable: [GuestRange], header: ControlHeader, response: Response, deadline: Int64,
    flips: [(scanout: ScanoutID, sequence: UInt64)] = []
  ) {
    (self.head, self.writable, self.header, self.response) = (head, writable, header, response)
    (self.deadline, self.flips) = (deadline, flips)
  }

  var isReady: Bool { flips.isEmpty && !pagesInUse }

  /// The scanout has got as far as `sequence`.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) {
    flips.removeAll { $0.scanout == scanout && $0.sequence <= sequence }
  }

  func waitNoLonger() { flips = [] }
}
