internal import Guest
internal import Linux
package import Virtio

/// One ring of a session: its setup from the front end, and the queue while it runs.
package final class Vring {
  package let index: Int

  // The setup from the messages.
  var size: UInt32 = 0
  var addresses: VringAddresses?
  var base: UInt16 = 0
  /// `SET_VRING_ENABLE`
  var isEnabled = false
  var kick: KickSource?
  var call: EventLine?
  var error: EventLine?

  /// Whether the memory table lacks the place of a running ring. A front end that removes regions one by one may take it
  /// away for a while; a guest that maps other things over its memory may take it for ever. Nothing is then taken from the
  /// ring. Its old place stays mapped for chains that must still be completed.
  var isAdrift = false
  private var running: VirtQueue?
  /// The index where the last run stopped.
  private var stoppedAt: UInt16?

  init(index: Int) { self.index = index }

  var isStarted: Bool { running != nil }

  /// Whether it runs, is enabled, and its memory is mapped. If the device left chains in it, a kick must follow.
  package var mayWork: Bool { isStarted && !isAdrift && kick?.isWatched ?? false }

  /// The ring's queue while it runs. Each start makes a new one.
  package var queue: VirtQueue {
    guard let running else { preconditionFailure("the ring does not run") }
    return running
  }

  /// Calls the driver if it wants to hear of completed chains (`VirtQueue.shouldNotify`).
  package func notify() {
    if let running, running.shouldNotify() { call?.event.signal() }
  }

  /// Tells the front end that the ring is broken, if it gave a descriptor for that.
  package func reportError() { error?.event.signal() }

  /// Makes the queue if its setup is complete.
  /// - Returns: whether the driver is a new one, or nil if the ring is not set up yet.
  func start(_ memory: GuestMemory, eventIndex: Bool, indirect: Bool) throws(VhostUserError) -> Bool? {
    guard let addresses, size > 0, kick != nil else { return nil }
    let rings: RingWindows
    do throws(OutsideMemory) {
      rings = try RingWindows(addresses, size: UInt16(size), eventIndex: eventIndex, memory)
    } catch {
      throw .ringOutsideMemory(queue: index, error.part, userAddress: error.userAddress)
    }
    let queue: VirtQueue
    do {
      queue = try VirtQueue(
        size: UInt16(size), rings: rings, memory: memory, eventIndex: eventIndex, indirect: indirect,
        start: base)
    } catch {
      throw .queue(index, error)
    }
    // Index 0 means a new driver, unless the ring stopped just there after 2^16 chains. Such a ring still has completed
    // chains in it.
    let resumes = base != 0 || stoppedAt == 0 && queue.lastUsedSlotFilled
    running = queue
    isAdrift = false
    return !resumes
  }

  /// Ends the run. The next one goes on at the same index, unless a message sets another. The queue is dropped, because it
  /// holds the memory table, which would keep unplugged memory.
  func stop() {
    guard let running else { return }
    base = running.position
    stoppedAt = base
    self.running = nil
    isAdrift = false
    kick?.pause()
  }

  /// Finds the rings of a running queue in another memory table, or at other addresses.
  /// - Throws: why they cannot be found. The ring is then adrift.
  func move(_ memory: GuestMemory, eventIndex: Bool) throws(VhostUserError) {
    guard let running, let addresses else { return }
    let rings: RingWindows
    do throws(OutsideMemory) {
      rings = try RingWindows(addresses, size: running.size, eventIndex: eventIndex, memory)
    } catch {
      running.memory = memory
      isAdrift = true
      throw .ringOutsideMemory(queue: index, error.part, userAddress: error.userAddress)
    }
    do {
      try running.move(to: rings, memory: memory)
    } catch {
      running.memory = memory
      isAdrift = true
      throw .queue(index, error)
    }
    isAdrift = false
  }
}
