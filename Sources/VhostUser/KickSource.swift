internal import Linux
internal import SystemPackage

/// A kick descriptor, watched while its ring runs. It closes with its owner. Its counter is not read while it is watched,
/// because the loop reports each kick once.
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

  /// Stops watching. The descriptor keeps later kicks; those that were reported are taken out of it.
  func pause() {
    guard let token else { return }
    loop.remove(token, event.fd)
    self.token = nil
    event.drain()
  }
}
