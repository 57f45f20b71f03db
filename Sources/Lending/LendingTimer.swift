package import Linux
package import SystemPackage

/// A table with deadlines: returns begin and end, and users are cut off.
package protocol Timed: AnyObject {
  var now: Instant { get }
  /// When the next thing is due; nil if nothing is.
  var deadline: Instant? { get }
  /// Something waits for another time than before.
  var timeHasChanged: () -> Void { get set }
  /// Does what is due.
  func expire()
}

extension Registry: Timed {}
extension OfferTable: Timed {}

/// Has a table do what is due when it is due.
package final class LendingTimer {
  private let timed: any Timed
  private var timer: Timer?
  /// Its time changes many times in a turn of the loop.
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
