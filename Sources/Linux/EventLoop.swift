internal import CLinux
package import SystemPackage

/// What a descriptor is ready for. The corresponding C constants are `EPOLL*`.
package struct Readiness: OptionSet, Sendable {
  /// The bits of `EPOLL*`.
  package let rawValue: UInt32
  /// Of the bits of `EPOLL*`.
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  /// Something can be read. The corresponding C constant is `EPOLLIN`.
  package static let readable = Readiness(rawValue: CL_EPOLLIN)
  /// Something can be written. The corresponding C constant is `EPOLLOUT`.
  package static let writable = Readiness(rawValue: CL_EPOLLOUT)
  /// The peer is gone, or the descriptor is broken. Always reported.
  package static let hangup = Readiness(rawValue: CL_EPOLLHUP)

  /// Each piece of news is reported once, whether it is read or not. The corresponding C constant is `EPOLLET`.
  package static let once = Readiness(rawValue: CL_EPOLLET)

  /// The kernel has two bits for what is `hangup` here.
  init(events: UInt32) {
    self.init(rawValue: events)
    if events & CL_EPOLLERR != 0 { insert(.hangup) }
  }
}

/// One thread's loop over descriptors (epoll, level-triggered unless `Readiness.once` is asked for). A handler runs to
/// completion; none may block.
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
  /// What is to run at the end of this turn, and what runs at the end of it.
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

  /// Watches for something else from now on; for nothing but a hangup with an empty set.
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

  /// Handles what is ready, and then what is deferred.
  /// - Parameter limit: how long something to handle is waited for; nil: as long as it takes.
  /// - Returns: how many handlers had their turn.
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
    // What these defer has to wait until the descriptors have had another turn. Both arrays keep their room.
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

/// A handler that runs at the end of the loop's turn, once, however often it was scheduled: for what must not be done in
/// the middle of something else.
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

  /// `handler` does not run any more when this object is gone.
  package init(_ loop: EventLoop, _ handler: @escaping () -> Void) {
    self.loop = loop
    entry = Entry()
    entry.handler = handler
  }

  deinit { entry.handler = nil }

  /// What is scheduled by a deferred handler runs in the next turn, which does not wait then.
  package func schedule() {
    if entry.isScheduled { return }
    entry.isScheduled = true
    loop.schedule(entry)
  }
}
