internal import Guest
internal import Linux
internal import Scanout

/// An answer that waits: for work that goes on, for a flip, for pages to come back, for the front end, or for its turn
/// among fenced ones.
final class PendingResponse {
  let head: UInt16
  let writable: [GuestRange]
  let header: ControlHeader
  private(set) var response: Response
  /// Then it is answered, whatever it waits for.
  private(set) var deadline: Instant
  /// Presentations that it waits for.
  private(set) var flips: [Flip]
  /// Pages that it waits for.
  var pagesInUse = false
  /// What the command asks for is still being done.
  var isAtWork = false
  /// What the front end was asked for.
  private(set) var errand: Errand?

  init(
    head: UInt16, writable: [GuestRange], header: ControlHeader, response: Response, deadline: Instant,
    flips: [Flip] = [], errand: Errand? = nil
  ) {
    (self.head, self.writable, self.header, self.response) = (head, writable, header, response)
    (self.deadline, self.flips, self.errand) = (deadline, flips, errand)
  }

  var isReady: Bool { flips.isEmpty && !pagesInUse && !isAtWork && errand == nil }

  /// The command is done. What else it waits for has until `deadline` at least.
  func finishWork(_ deadline: Instant) {
    guard isAtWork else { return }
    isAtWork = false
    self.deadline = max(self.deadline, deadline)
  }

  /// The scanout has got as far as `sequence`.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) {
    flips.removeAll { $0.scanout == scanout && $0.sequence <= sequence }
  }

  /// The errand is done, and this is what is answered.
  func finish(_ response: Response) {
    if errand.take() != nil { self.response = response }
  }

  /// The front end works on what it was asked for, one thing after the other.
  func waitLonger(_ now: Instant) {
    if let errand, errand.answerer == .frontEnd { deadline = max(deadline, now + errand.patience) }
  }

  func waitNoLonger() {
    flips = []
    isAtWork = false
    guard let errand = errand.take() else { return }
    response = errand.ifAbandoned
    errand.isAbandoned = true
  }
}
