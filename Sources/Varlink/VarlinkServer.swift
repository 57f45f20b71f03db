package import Linux
package import SystemPackage

/// An interface that a server offers.
package protocol VarlinkInterface: AnyObject {
  /// Such as `org.example.Interface`.
  var name: String { get }
  /// In varlink's interface definition language.
  var description: String { get }
  /// The methods that must be called with `upgrade`: after their reply the connection speaks another protocol.
  var upgradedMethods: [String] { get }

  /// Answers a call of the method of this name: with `reply`, `beginStream` or `upgrade` of the connection, once, or by
  /// throwing.
  func handle(
    _ method: String, _ call: VarlinkCall, from connection: VarlinkConnection
  ) throws(VarlinkError)
}

extension VarlinkInterface {
  package var upgradedMethods: [String] { [] }
}

/// A service's description of itself.
package struct VarlinkInfo: Sendable {
  package var vendor, product, version, url: String
  package init(vendor: String, product: String, version: String, url: String) {
    (self.vendor, self.product, self.version, self.url) = (vendor, product, version, url)
  }
}

/// Serves interfaces on a Unix socket (https://varlink.org), as sources of an event loop.
package final class VarlinkServer {
  private let shares: UserShares
  /// The number of connections that were closed, because there were too many, or their user may not connect.
  package private(set) var refusedCount = 0
  /// Called with the reason when a connection was refused.
  package var whenRefused: ((String) -> Void)?

  /// The default limit of connections at once.
  package static let connectionLimit = 32

  private let loop: EventLoop
  private let takesDescriptors: Bool
  private let admits: (PeerCredentials) -> Bool
  private var interfaces: [String: any VarlinkInterface] = [:]
  private var acceptor: Acceptor?
  private var connections: [ObjectIdentifier: VarlinkConnection] = [:]

  /// - Parameters:
  ///   - socket: the listening socket.
  ///   - limit: the most connections at once; further ones are closed.
  ///   - takesDescriptors: whether callers may pass descriptors; otherwise these are closed.
  ///   - admits: decides who may call.
  package init(
    _ socket: consuming UnixSocket, info: VarlinkInfo, interfaces: [any VarlinkInterface],
    limit: Int = connectionLimit, takesDescriptors: Bool = false, loop: EventLoop,
    admits: @escaping (PeerCredentials) -> Bool
  ) throws(Errno) {
    (self.loop, self.admits, shares) = (loop, admits, UserShares(limit))
    self.takesDescriptors = takesDescriptors
    let service = ServiceInterface(info, interfaces)
    for interface in interfaces + [service] { self.interfaces[interface.name] = interface }
    acceptor = try Acceptor(socket, loop: loop) { [unowned self] connected throws(Errno) in
      try take(connected)
    } whenFailed: { [unowned self] error in
      refuse(
        "a connection to the control socket could not be accepted; the next try is in a second: \(error)")
    }
  }

  deinit { close() }

  package var connectionCount: Int { connections.count }

  /// Stops listening, and ends all connections.
  package func close() {
    acceptor = nil
    for connection in connections.values { connection.close() }
    connections = [:]
  }

  private func take(_ connected: consuming UnixSocket) throws(Errno) {
    let peer = try connected.peer()
    guard admits(peer) else {
      return refuse("process \(peer.pid) of user \(peer.user) is not allowed to use the control socket")
    }
    if let reached = shares.reached(by: peer.user, beside: connections.values.map(\.peer.user)) {
      return refuse("process \(peer.pid) would be one more than \(reached.words("connections"))")
    }
    let connection = try VarlinkConnection(connected, peer, takesDescriptors: takesDescriptors, loop: loop) {
      [unowned self] (call, connection) throws(VarlinkError) in try dispatch(call, connection)
    }
    let id = ObjectIdentifier(connection)
    connections[id] = connection
    // Weak: the end of the server is the end of its connections.
    connection.whenClosed = { [weak self] in self?.connections[id] = nil }
  }

  private func refuse(_ why: String) {
    refusedCount += 1
    whenRefused?(why)
  }

  private func dispatch(_ call: VarlinkCall, _ connection: VarlinkConnection) throws(VarlinkError) {
    guard let (name, method) = call.parts else { throw .interfaceNotFound(call.method) }
    guard let interface = interfaces[name] else { throw .interfaceNotFound(name) }
    switch (call.wantsUpgrade, interface.upgradedMethods.contains(method)) {
    case (true, false): throw .methodNotImplemented(call.method)
    case (false, true): throw .invalidParameter("upgrade")
    default: try interface.handle(method, call, from: connection)
    }
  }
}
