package import Linux
package import SystemPackage
package import Varlink

/// Makes calls of `io.udmabridge.Display` on its own connection, one after the other. Their answers come from the
/// event loop.
package final class DisplayCaller {
  package typealias Answer = (consuming Result<VarlinkClient.Reply, VarlinkClientError>) -> Void

  private struct Call {
    let method: String
    let request: DisplayRequest
    let answer: Answer
  }

  private let client: VarlinkClient
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var calls: [Call] = []
  /// Called when the connection is over. No more answers come then.
  private let whenClosed: (VarlinkClientError) -> Void

  package init(
    _ client: VarlinkClient, loop: EventLoop, whenClosed: @escaping (VarlinkClientError) -> Void
  ) throws(Errno) {
    (self.client, self.loop, self.whenClosed) = (client, loop, whenClosed)
    token = try client.withDescriptor { fd throws(Errno) in
      try loop.add(fd) { [unowned self] _ in receive() }
    }
  }

  deinit { stop() }

  private func stop() {
    guard let token = token.take() else { return }
    client.withDescriptor { loop.remove(token, $0) }
  }

  package func call(_ method: String, _ request: DisplayRequest, _ answer: @escaping Answer) {
    guard token != nil else { return }
    calls.append(Call(method: method, request: request, answer: answer))
    if calls.count == 1 { begin() }
  }

  private func begin() {
    guard let call = calls.first else { return }
    do throws(VarlinkClientError) {
      try client.begin("\(displayInterfaceName).\(call.method)", call.request)
    } catch { close(error) }
  }

  private func close(_ error: VarlinkClientError) {
    stop()
    calls = []
    whenClosed(error)
  }

  private func receive() {
    do throws(VarlinkClientError) {
      guard let reply = try client.nextReceived() else { return }
      finish(.success(reply))
    } catch {
      if case .answered = error { finish(.failure(error)) } else { close(error) }
    }
  }

  private func finish(_ result: consuming Result<VarlinkClient.Reply, VarlinkClientError>) {
    guard let call = calls.first else { return close(.malformed("nothing was asked")) }
    // The call stays the first until `answer` returns, so calls that are made meanwhile come after it.
    call.answer(result)
    if !calls.isEmpty { calls.removeFirst() }
    begin()
  }
}
