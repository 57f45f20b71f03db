internal import Guest
internal import Scanout

/// An answer that waits: for work that goes on, for a flip, for pages to come back, for the front end, or for its turn
/// among fenced ones.
final class PendingResponse {
  let head: UInt16
  let writable: [GuestRange]
  let header: ControlHeader
  private(set) var response: Response
  /// In nanoseconds of the monotonic clock; then it is answered whatever it waits for.
  private(set) var deadline: Int64
  /// Presentations that it waits for.
  private(set) var flips: [(scanout: ScanoutID, sequence: UInt64)]
  /// Pages that it waits for.
  var pagesInUse = false
  /// What the command asks for is still being done.
  var isAtWork = false
  /// What the front end was asked for.
  private(set) var errand: Errand?

  init(
    head: UInt16, writable: [GuestRange], header: ControlHeader, response: Response, deadline: Int64,
    flips: [(scanout: ScanoutID, sequence: UInt64)] = [], errand: Errand? = nil
  ) {
    (self.head, self.writable, self.header, self.response) = (head, writable, header, response)
    (self.deadline, self.flips, self.errand) = (deadline, flips, errand)
  }

  var isReady: Bool { flips.isEmpty && !pagesInUse && !isAtWork && errand == nil }

  /// The command is done. What else it waits for has until `deadline` at least.
  func finishWork(_ deadline: Int64) {
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
  func waitLonger(_ now: Int64) {
    if let errand, errand.isOfFrontEnd { deadline = max(deadline, now + errand.patience) }
  }

  func waitNoLonger() {
    flips = []
    isAtWork = false
    guard let errand = errand.take() else { return }
    response = errand.ifAbandoned
    errand.isAbandoned = true
  }
}

/// Something that the front end, or the sink, was asked for on behalf of a command.
final class Errand {
  /// The answer that waits for it.
  weak var response: PendingResponse? { didSet { if let result { response?.finish(result) } } }
  /// What came of it, which may be before anything waits: a channel breaks when it is written to.
  private var result: Response?
  /// Nobody waits for it any more.
  var isAbandoned = false
  /// What is answered then: what was asked is undone, or is done some time.
  let ifAbandoned: Response
  /// What the driver must leave room for: the longest answer.
  let longest: Response
  /// In nanoseconds: so long it is waited for.
  let patience: Int64
  /// The front end's channel answers it, in its turn; else the sink does.
  let isOfFrontEnd: Bool

  init(ifAbandoned: Response, longest: Response? = nil, patience: Int64, isOfFrontEnd: Bool = true) {
    (self.ifAbandoned, self.longest) = (ifAbandoned, longest ?? ifAbandoned)
    (self.patience, self.isOfFrontEnd) = (patience, isOfFrontEnd)
  }

  func finish(_ result: Response) {
    self.result = result
    response?.finish(result)
  }
}
