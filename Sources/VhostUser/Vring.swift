internal import Guest
internal import Linux
internal import SystemPackage
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
    let rings: Windows
    do throws(OutsideMemory) {
      rings = try Windows(addresses, size: UInt16(size), eventIndex, memory)
    } catch {
      throw .ringOutsideMemory(queue: index, error.part, userAddress: error.userAddress)
    }
    let queue: VirtQueue
    do {
      queue = try VirtQueue(
        size: UInt16(size), descriptors: rings.descriptors, available: rings.available, used: rings.used,
        memory: memory, eventIndex: eventIndex, indirect: indirect, start: base)
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
    let rings: Windows
    do throws(OutsideMemory) {
      rings = try Windows(addresses, size: running.size, eventIndex, memory)
    } catch {
      running.memory = memory
      isAdrift = true
      throw .ringOutsideMemory(queue: index, error.part, userAddress: error.userAddress)
    }
    do {
      try running.move(
        descriptors: rings.descriptors, available: rings.available, used: rings.used, memory: memory)
    } catch {
      running.memory = memory
      isAdrift = true
      throw .queue(index, error)
    }
    isAdrift = false
  }
}

private struct OutsideMemory: Error {
  let part: RingPart
  let userAddress: UInt64
}

/// The three parts of a ring, found in the memory table.
private struct Windows {
  let descriptors: GuestWindow
  let available: GuestWindow
  let used: GuestWindow

  init(
    _ addresses: VringAddresses, size: UInt16, _ eventIndex: Bool, _ memory: GuestMemory
  ) throws(OutsideMemory) {
    func window(_ part: RingPart, _ address: UInt64) throws(OutsideMemory) -> GuestWindow {
      let length = VirtQueue.bytes(of: part, size: size, eventIndex: eventIndex)
      do {
        return try memory.window(userAddress: address, length: length)
      } catch {
        throw OutsideMemory(part: part, userAddress: address)
      }
    }
    descriptors = try window(.descriptors, addresses.descriptors)
    available = try window(.available, addresses.available)
    used = try window(.used, addresses.used)
  }
}

/// A descriptor by which the front end is called.
final class EventLine {
  let event: EventFD
  init(_ event: consuming EventFD) { self.event = event }
}

/// A kick descriptor, watched while its ring runs. It closes with its owner. Nobody reads its counter while it is watched:
/// each kick is news of its own.
final class KickSource {
  private let event: EventFD
  private let loop: EventLoop
  private var token: EventLoop.Token?

  init(_ event: consuming EventFD, _ loop: EventLoop) {
    self.event = event
    self.loop = loop
  }

  deinit { pause() }

  var isWatched: Bool { token != nil }

  /// `kicked` is told whether the descriptor still works.
  /// - Returns: false if it is being watched already.
  func watch(_ kicked: @escaping (_ works: Bool) -> Void) throws(Errno) -> Bool {
    if token != nil { return false }
    token = try loop.add(event.fd, [.readable, .once]) { kicked(!$0.contains(.hangup)) }
    return true
  }

  /// A kick that comes meanwhile is kept in the descriptor; those that were heard of are taken out of it.
  func pause() {
    guard let token else { return }
    loop.remove(token, event.fd)
    self.token = nil
    event.drain()
  }
}
