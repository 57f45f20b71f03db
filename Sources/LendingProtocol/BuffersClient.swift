package import SystemPackage
package import Udmabuf
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

  // MARK: Offers

  package func offer(_ request: OfferRequest, _ memory: borrowing FD) throws -> VarlinkClient.Reply {
    try client.call("\(buffersInterfaceName).Offer", request, passing: memory)
  }

  /// - Parameter token: is closed when the guest has let go of the memory.
  package func offer(
    _ request: OfferRequest, _ memory: borrowing FD, token: borrowing FD
  ) throws -> VarlinkClient.Reply {
    try client.call("\(buffersInterfaceName).Offer", request, passing: memory, token)
  }

  package func call(_ method: String, _ request: OfferRequest) throws -> VarlinkClient.Reply {
    try client.call("\(buffersInterfaceName).\(method)", request)
  }

  package func beginWatchingOffers() throws { try client.callMore("\(buffersInterfaceName).WatchOffers") }

  /// Waits for the next event.
  package func nextOffersEvent() throws -> OffersEvent { try client.next().decode() }

  package func withDescriptor<Result: ~Copyable, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try client.withDescriptor(body)
  }

  /// Runs `body` for each event until it returns false, or until the last event.
  package func watch(_ body: (BuffersEvent) throws -> Bool) throws {
    try client.callMore("\(buffersInterfaceName).Watch")
    while true {
      let reply = try client.next()
      guard try body(try reply.decode()), reply.continues else { return }
    }
  }
}
