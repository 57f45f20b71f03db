package import SystemPackage
package import Varlink

/// Calls the methods of `io.udmabridge.Display`, and waits for their answers.
package struct DisplayClient {
  private let client: VarlinkClient

  package init(_ path: FilePath) throws { client = try VarlinkClient(path) }

  package func call(_ method: String, _ request: DisplayRequest = DisplayRequest()) throws
    -> VarlinkClient.Reply
  {
    try client.call("\(displayInterfaceName).\(method)", request)
  }

  /// Runs `body` for each event, until `body` returns false or the service says that the event was the last one.
  package func watch(_ body: (DisplayEvent) throws -> Bool) throws {
    try client.callMore("\(displayInterfaceName).Watch")
    while true {
      let reply = try client.next()
      guard try body(try reply.decode()), reply.continues else { return }
    }
  }
}
