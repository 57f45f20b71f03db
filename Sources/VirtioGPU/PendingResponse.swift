internal import Guest
internal import Linux
internal import Scanout

/// An answer that waits: for work in later turns, a flip, the return of pages, the front end, or its turn among fenced
/// answers.
final class PendingResponse {
  let head: UInt16
  let writable: [GuestRange]
  let header: ControlHeader
  private(set) var response: Response
  /// The answer is sent at this time at the latest.
  private(set) var deadline: Instant
  /// The awaited presentations.
  private(set) var flips: [Flip]
  /// The awaited pages.
  var pagesInUse = false
  /// Whether the command's work still goes on.
  var isAtWork = false
  /// The awaited request to the front end or the sink.
  private(set) var errand: Errand?

  init(
    head: UInt16, writable: [GuestRange], header: ControlHeader, response: Response, deadline: Instant,
    flips: [Flip] = [], errand: Errand? = nil
  ) {
    (self.head, self.writable, self.header, self.response) = (head, writable, header, response)
    (self.deadline, self.flips, self.errand) = (deadline, flips, errand)
  }

  var isReady: Bool { flips.isEmpty && !pagesInUse && !isAtWork && errand == nil }

  /// The command's work is done. Its other waits have at least until `deadline`.
  func finishWork(_ deadline: Instant) {
    guard isAtWork else { return }
    isAtWork = false
    self.deadline = max(self.deadline, deadline)
  }

  /// The scanout has reached the presentation `sequence`.
  func reached(_ sequence: UInt64, on scanout: ScanoutID) {
    flips.removeAll { $0.scanout == scanout && $0.sequence <= sequence }
  }

  /// The errand is done with this answer.
  func finish(_ response: Response) {
    if errand.take() != nil { self.response = response }
  }

  /// The front end has answered an earlier request, so this one has until `deadline` from now on.
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
