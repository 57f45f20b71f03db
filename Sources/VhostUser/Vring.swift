internal import Guest
internal import Linux
package import Virtio

/// One ring of a session: what the front end said of it, and the queue while it runs.
package final class Vring {
  package let index: Int

  // As the messages set it up.
  var size: UInt32 = 0
  var addresses: VringAddresses?
  var base: UInt16 = 0
  /// `SET_VRING_ENABLE`
  var isEnabled = false
  var kick: KickSource?
  var call: EventLine?
  var error: EventLine?

  /// The memory table does not have the place of a running ring: a front end that removes regions one by one
  /// may take it away for a while, and a guest that maps other things over its memory for ever. Nothing is
  /// taken from the ring then; its old place stays mapped for what is still to be completed.
  var isAdrift = false
  private var running: VirtQueue?
  /// Where the last run stopped.
  private var stoppedAt: UInt16?

  init(index: Int) { self.index = index }

  var isStarted: Bool { running != nil }

  /// It runs, is enabled, and its memory is there. A device that has left chains in it takes them when it is told of a
  /// kick after that.
  package var mayWork: Bool { isStarted && !isAdrift && kick?.isWatched ?? false }

  /// The ring's queue while it runs. There is a new one after each start.
  package var queue: VirtQueue {
    guard let running else { preconditionFailure("the ring does not run") }
    return running
  }

  /// Calls the driver if it wants to hear of what was completed (`VirtQueue.shouldNotify`).
  package func notify() {
    if let running, running.shouldNotify() { call?.event.signal() }
  }

  /// Tells the front end that the ring is broken, if it gave a descriptor for that.
  package func reportError() { error?.event.signal() }

  /// Makes the queue, if everything for it is there.
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
    // Index 0 is a new driver's, but for a ring that stopped just there after a turn around 2^16: that one
    // still has in it what was completed.
    let resumes = base != 0 || stoppedAt == 0 && queue.lastUsedSlotFilled
    running = queue
    isAdrift = false
    return !resumes
  }

  /// Ends the run; the next one goes on at the same index unless it is told otherwise. The queue goes, since it holds
  /// the memory table: what is unplugged meanwhile is let go of.
  func stop() {
    guard let running else { return }
    base = running.position
    stoppedAt = base
    self.running = nil
    isAdrift = false
    kick?.pause()
  }

  /// Finds the rings of a running queue in another memory table, or at other addresses.
  /// - Throws: what keeps it from being found. It is adrift then.
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
