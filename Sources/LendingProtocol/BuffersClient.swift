package import SystemPackage
package import Varlink

/// Calls the methods of `io.udmabridge.Buffers`, and waits for the answers.
package struct BuffersClient {
  private let client: VarlinkClient

  package init(_ path: FilePath) throws { client = try VarlinkClient(path) }

  package func call(_ method: String, _ request: BuffersRequest = BuffersRequest()) throws
    -> VarlinkClient.Reply
  {
    try client.call("\(buffersInterfaceName).\(method)", request)
  }

  /// Runs `body` for each event until it returns false, or the service says that it was the last one.
  package func watch(_ body: (BuffersEvent) throws -> Bool) throws {
    try client.callMore("\(buffersInterfaceName).Watch")
    while true {
      let reply = try client.next()
      guard try body(try reply.decode()), reply.continues else { return }
    }
  }
}
