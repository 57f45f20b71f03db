internal import Linux

/// How many calls that go on, of all interfaces of one server, there may be at once.
package final class WatcherLimit {
  private let shares: UserShares
  /// The users of those that there are, by their connections.
  private var users: [ObjectIdentifier: UInt32] = [:]

  package init(_ limit: Int) { shares = UserShares(limit) }

  package var count: Int { users.count }

  /// The caller is root or this process's own user.
  package func isTrusted(_ connection: VarlinkConnection) -> Bool { shares.isTrusted(connection.peer.user) }

  /// Counts a connection until it is over.
  /// - Returns: the limit, if that stands against it.
  package func add(_ connection: VarlinkConnection) -> Int? {
    let user = connection.peer.user
    if let reached = shares.reached(by: user, beside: users.values) { return reached.limit }
    let id = ObjectIdentifier(connection)
    users[id] = user
    connection.whenGone(for: self) { [weak self] in self?.users[id] = nil }
    return nil
  }
}
