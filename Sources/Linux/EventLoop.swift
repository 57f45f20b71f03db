internal import CLinux
package import SystemPackage

/// The readiness of a descriptor. The corresponding C constants are `EPOLL*`.
package struct Readiness: OptionSet, Sendable {
  /// The bits of `EPOLL*`.
  package let rawValue: UInt32
  /// Takes the bits of `EPOLL*`.
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  /// The descriptor can be read. The corresponding C constant is `EPOLLIN`.
  package static let readable = Readiness(rawValue: CL_EPOLLIN)
  /// The descriptor can be written. The corresponding C constant is `EPOLLOUT`.
  package static let writable = Readiness(rawValue: CL_EPOLLOUT)
  /// The peer is gone, or the descriptor is broken. Always reported.
  package static let hangup = Readiness(rawValue: CL_EPOLLHUP)

  /// Each change is reported only once, even if nothing is read. The corresponding C constant is `EPOLLET`.
  package static let once = Readiness(rawValue: CL_EPOLLET)

  /// The kernel has two bits for `hangup`.
  init(events: UInt32) {
    self.init(rawValue: events)
    if events & CL_EPOLLERR != 0 { insert(.hangup) }
  }
}

/// One thread's loop over descriptors (epoll, level-triggered unless `Readiness.once` is set). A handler runs to its end,
/// and must not block.
@safe package final class EventLoop {
  package typealias Handler = (Readiness) -> Void

  /// Names one registration. The generation keeps an event that was already fetched for a removed source
  /// from reaching the next source in the same slot.
  package struct Token: Hashable, Sendable {
    fileprivate let slot: UInt32
    fileprivate let generation: UInt32
    fileprivate var packed: UInt64 { UInt64(generation) << 32 | UInt64(slot) }
  }

  private struct Slot {
    var generation: UInt32 = 0
    var handler: Handler?
  }

  private static let batch = 64
  private let epoll: FD
  private var slots: [Slot] = []
  private var free: [UInt32] = []
  private let events: UnsafeMutablePointer<cl_epoll_event>
  /// The handlers to run at the end of this turn, and those that run there now.
  private var (scheduled, due): ([Deferred.Entry], [Deferred.Entry]) = ([], [])
  private var running = false

  /// A loop without sources. The corresponding C function is `epoll_create1`.
  package init() throws(Errno) {
    epoll = FD(adopting: try retrying { cl_epoll_create() })
    unsafe events = .allocate(capacity: Self.batch)
  }

  deinit { unsafe events.deallocate() }

  /// Watches a descriptor until `remove`. The caller keeps it open that long.
  package func add(
    _ fd: borrowing FD, _ readiness: Readiness = .readable, _ handler: @escaping Handler
  ) throws(Errno) -> Token {
    let slot = free.popLast() ?? UInt32(slots.count)
    if slot == slots.count { slots.append(Slot()) }
    let token = Token(slot: slot, generation: slots[Int(slot)].generation)
    do {
      _ = try fd.withRaw { raw throws(Errno) in
        try epoll.withRaw { epoll throws(Errno) in
          try retrying { cl_epoll_add(epoll, raw, readiness.rawValue, token.packed) }
        }
      }
    } catch {
      free.append(slot)
      throw error
    }
    slots[Int(slot)].handler = handler
    return token
  }

  /// Changes the readiness to watch for. With an empty set it watches only for a hangup.
  package func modify(_ token: Token, _ fd: borrowing FD, _ readiness: Readiness) throws(Errno) {
    _ = try fd.withRaw { raw throws(Errno) in
      try epoll.withRaw { epoll throws(Errno) in
        try retrying { cl_epoll_modify(epoll, raw, readiness.rawValue, token.packed) }
      }
    }
  }

  /// Stops watching. Events of it that were already fetched are dropped.
  package func remove(_ token: Token, _ fd: borrowing FD) {
    precondition(slots[Int(token.slot)].generation == token.generation, "a source is removed once")
    fd.withRaw { raw in epoll.withRaw { _ = cl_epoll_remove($0, raw) } }
    slots[Int(token.slot)].handler = nil
    slots[Int(token.slot)].generation &+= 1
    free.append(token.slot)
  }

  fileprivate func schedule(_ entry: Deferred.Entry) { scheduled.append(entry) }

  /// Runs the handlers of ready descriptors, and then the deferred ones.
  /// - Parameter limit: how long to wait for a ready descriptor; nil: without limit.
  /// - Returns: the number of handlers that ran.
  @discardableResult
  package func turn(waiting limit: TimeSpan? = nil) throws(Errno) -> Int {
    let count = try epoll.withRaw { epoll throws(Errno) in
      try retrying {
        unsafe cl_epoll_wait(epoll, events, CInt(Self.batch), scheduled.isEmpty ? limit.timeout : 0)
      }
    }
    for index in 0..<Int(count) {
      let event = unsafe events[index]
      let slot = Int(truncatingIfNeeded: event.token & 0xffff_ffff)
      guard slots[slot].generation == UInt32(truncatingIfNeeded: event.token >> 32) else { continue }
      slots[slot].handler?(Readiness(events: event.events))
    }
    // If these defer handlers again, those wait until the descriptors have had a turn. Both arrays keep their capacity.
    swap(&scheduled, &due)
    for entry in due { entry.run() }
    let all = Int(count) + due.count
    due.removeAll(keepingCapacity: true)
    return all
  }

  /// Turns until `stop` is called.
  package func run() throws(Errno) {
    running = true
    while running { try turn() }
  }

  /// Ends `run` after the current turn.
  package func stop() { running = false }
}

/// A handler for work that must not interrupt other work. It runs once at the end of the loop's turn, however often it
/// was scheduled.
package final class Deferred {
  private let loop: EventLoop
  private let entry: Entry

  fileprivate final class Entry {
    var handler: (() -> Void)?
    var isScheduled = false

    func run() {
      isScheduled = false
      handler?()
    }
  }

  /// `handler` no longer runs after this object is gone.
  package init(_ loop: EventLoop, _ handler: @escaping () -> Void) {
    self.loop = loop
    entry = Entry()
    entry.handler = handler
  }

  deinit { entry.handler = nil }

  /// A handler that a deferred handler schedules runs in the next turn, which then does not wait.
  package func schedule() {
    if entry.isScheduled { return }
    entry.isScheduled = true
    loop.schedule(entry)
  }
}
