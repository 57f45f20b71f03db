internal import Lending
internal import LendingProtocol
internal import Linux

/// A connection's imports, and its watcher.
final class BuffersImporter {
  let caller: LendingCaller
  /// The oldest first.
  private(set) var uses: [Import] = []
  var watcher: BuffersWatcher?

  init(_ peer: PeerCredentials, isTrusted: Bool) {
    caller = LendingCaller(pid: peer.pid, user: peer.user, groups: peer.groups, isTrusted: isTrusted)
  }

  func add(_ use: Import) { uses.append(use) }

  func remove(_ use: Import) { uses.removeAll { $0 === use } }

  func oldest(_ id: BufferID) -> Import? { uses.first { $0.buffer.id == id } }

  func newest(_ id: BufferID) -> Import? { uses.last { $0.buffer.id == id } }
}
