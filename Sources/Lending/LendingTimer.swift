package import Linux
package import SystemPackage

/// A table with deadlines: returns begin and end, and users are cut off.
package protocol Timed: AnyObject {
  var now: Instant { get }
  /// The next deadline; nil if there is none.
  var deadline: Instant? { get }
  /// Called when the deadline has changed.
  var timeHasChanged: () -> Void { get set }
  /// Does everything whose deadline has passed.
  func expire()
}

extension Registry: Timed {}
extension OfferTable: Timed {}

/// Calls a table at its deadlines.
package final class LendingTimer {
  private let timed: any Timed
  private var timer: Timer?
  /// Arms the timer once per turn, because the deadline can change many times in it.
  private var change: Deferred?

  package init(_ timed: any Timed, loop: EventLoop) throws(Errno) {
    self.timed = timed
    timer = try Timer(loop) { [unowned self] in
      timed.expire()
      arm()
    }
    change = Deferred(loop) { [unowned self] in arm() }
    timed.timeHasChanged = { [weak self] in self?.change?.schedule() }
    arm()
  }

  private func arm() {
    guard let deadline = timed.deadline else {
      timer?.disarm()
      return
    }
    timer?.arm(after: deadline - timed.now)
  }
}
