package import Linux
package import SystemPackage

/// Lets a registry do in time what nobody asks it for: returns that begin or end, and importers that are cut off.
package final class LendingTimer {
  private let registry: Registry
  private var timer: Timer?
  /// A registry's time changes many times in a turn of the loop.
  private var change: Deferred?

  package init(_ registry: Registry, loop: EventLoop) throws(Errno) {
    self.registry = registry
    timer = try Timer(loop) { [unowned self] in
      registry.expire()
      arm()
    }
    change = Deferred(loop) { [unowned self] in arm() }
    registry.timeHasChanged = { [weak self] in self?.change?.schedule() }
    arm()
  }

  private func arm() {
    guard let deadline = registry.deadline else {
      timer?.disarm()
      return
    }
    timer?.arm(after: deadline - registry.now)
  }
}
