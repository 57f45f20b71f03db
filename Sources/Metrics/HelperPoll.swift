internal import DisplayProtocol
package import Linux
package import SystemPackage
internal import Varlink

/// Asks helpers for their statistics: all at once, so that a silent one delays no other, and for a bounded time.
package final class HelperPoll {
  /// The default wait for an answer.
  package static let patience = TimeSpan.seconds(1)
  /// The wait for a place in a helper's queue of connections.
  private static let connecting = TimeSpan.milliseconds(50)
  /// The longest answer; a real one has a few kilobytes.
  private static let longestReply = 64 << 10

  private let loop: EventLoop
  private let patience: TimeSpan
  private var timer: Timer?
  private var calls: [Call] = []
  private var whenDone: (([HelperReading]) -> Void)?

  private final class Call {
    let place: HelperPlace
    let began = Instant.now
    var client: VarlinkClient?
    var token: EventLoop.Token?
    var reading: HelperReading?
    init(_ place: HelperPlace) { self.place = place }
  }

  package init(_ loop: EventLoop, patience: TimeSpan = patience) throws(Errno) {
    (self.loop, self.patience) = (loop, patience)
    timer = try Timer(loop) { [unowned self] in expire() }
  }

  deinit { for call in calls { hangUp(call) } }

  /// Whether the poll is under way. `ask` must not be called then.
  package var isBusy: Bool { whenDone != nil }

  /// Asks these helpers, and hands over their answers in the same order: before this returns, if there is no helper to wait for.
  package func ask(_ places: [HelperPlace], _ whenDone: @escaping ([HelperReading]) -> Void) {
    precondition(!isBusy, "helpers are asked once at a time")
    self.whenDone = whenDone
    calls = []
    for place in places {
      let call = Call(place)
      calls.append(call)
      begin(call)
    }
    timer?.arm(after: patience)
    finish()
  }

  private func begin(_ call: Call) {
    do throws(VarlinkClientError) {
      let client = try VarlinkClient(
        call.place.control, within: Self.connecting, longestReply: Self.longestReply)
      try client.begin("\(displayInterfaceName).Statistics")
      do throws(Errno) {
        call.token = try client.withDescriptor { fd throws(Errno) in
          try loop.add(fd) { [unowned self, unowned call] _ in
            receive(call)
            finish()
          }
        }
        call.client = client
      } catch { end(call, .failure(.system(error))) }
    } catch { end(call, .failure(.call(error))) }
  }

  private func receive(_ call: Call) {
    guard let client = call.client else { return }
    do throws(VarlinkClientError) {
      guard let reply = try client.nextReceived() else { return }
      let count = try reply.decode(HelperCount.self)
      do throws(ReadingError) {
        try HelperReading.check(count)
        end(call, .success(count))
      } catch { end(call, .failure(error)) }
    } catch { end(call, .failure(.call(error))) }
  }

  private func end(_ call: Call, _ answer: Result<HelperCount, ReadingError>) {
    hangUp(call)
    call.reading = HelperReading(call.place, began: call.began, duration: .now - call.began, answer)
  }

  private func hangUp(_ call: Call) {
    guard let client = call.client.take() else { return }
    if let token = call.token.take() { client.withDescriptor { loop.remove(token, $0) } }
  }

  private func expire() {
    for call in calls where call.reading == nil { end(call, .failure(.late(patience))) }
    finish()
  }

  /// Hands over the answers if every helper has answered or failed.
  private func finish() {
    guard isBusy, calls.allSatisfy({ $0.reading != nil }) else { return }
    timer?.disarm()
    let readings = calls.compactMap(\.reading)
    calls = []
    whenDone.take()?(readings)
  }
}
