internal import Linux

/// The limit on calls with several replies at once, for all interfaces of one server.
package final class WatcherLimit {
  private let shares: UserShares
  /// The users of the present calls, by their connections.
  private var users: [ObjectIdentifier: UInt32] = [:]

  package init(_ limit: Int) { shares = UserShares(limit) }

  package var count: Int { users.count }

  /// Whether the caller is root or this process's own user.
  package func isTrusted(_ connection: VarlinkConnection) -> Bool { shares.isTrusted(connection.peer.user) }

  /// Counts a connection until it is over.
  /// - Returns: the limit that it would exceed, or nil.
  package func add(_ connection: VarlinkConnection) -> Int? {
    let user = connection.peer.user
    if let reached = shares.reached(by: user, beside: users.values) { return reached.limit }
    let id = ObjectIdentifier(connection)
    users[id] = user
    connection.whenGone(for: self) { [weak self] in self?.users[id] = nil }
    return nil
  }
}
