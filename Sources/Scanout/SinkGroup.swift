/// Several sinks as one, with consecutive numbers for their scanouts.
package final class SinkGroup: ScanoutSink {
  /// The route of a scanout of the group: the sink, and its own scanout.
  package struct Route: Equatable, Sendable {
    package let sink: Int
    package let scanout: ScanoutID
    package init(sink: Int, scanout: ScanoutID) { (self.sink, self.scanout) = (sink, scanout) }
  }

  package weak var observer: (any ScanoutObserver)?
  private let sinks: [any ScanoutSink]
  private let routes: [Route]
  private var relays: [Relay] = []
  /// The sinks that know a frame, by its id.
  private var knownTo: [UInt64: Set<Int>] = [:]

  /// - Parameter routes: one for each scanout of the group. Each names a scanout of its sink, and no two are the same.
  package init(_ sinks: [any ScanoutSink], routes: [Route]) {
    (self.sinks, self.routes) = (sinks, routes)
    for (index, sink) in sinks.enumerated() {
      var numbers: [ScanoutID: ScanoutID] = [:]
      for (number, route) in routes.enumerated() where route.sink == index {
        precondition(Int(route.scanout.rawValue) < sink.outputs.count, "a route leads to a scanout")
        precondition(numbers[route.scanout] == nil, "one route leads to a scanout")
        numbers[route.scanout] = ScanoutID(UInt32(number))
      }
      let relay = Relay(self, numbers)
      relays.append(relay)
      sink.observer = relay
    }
  }

  /// Passes a sink's reports about its own scanouts on to the group's observer.
  private final class Relay: ScanoutObserver {
    unowned let group: SinkGroup
    let numbers: [ScanoutID: ScanoutID]

    init(_ group: SinkGroup, _ numbers: [ScanoutID: ScanoutID]) {
      (self.group, self.numbers) = (group, numbers)
    }

    func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
      guard let number = numbers[scanout] else { return }
      group.observer?.presented(sequence, frame: frame, on: number)
    }
    func replaced(_ sequence: UInt64, on scanout: ScanoutID) {
      guard let number = numbers[scanout] else { return }
      group.observer?.replaced(sequence, on: number)
    }
    func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
      guard let number = numbers[scanout] else { return }
      group.observer?.failed(sequence, on: number, error)
    }
    func outputsChanged() { group.observer?.outputsChanged() }
  }

  package var outputs: [SinkOutput] { routes.map { sinks[$0.sink].outputs[Int($0.scanout.rawValue)] } }

  private func route(_ scanout: ScanoutID) -> Route? {
    scanout.rawValue < routes.count ? routes[Int(scanout.rawValue)] : nil
  }

  private func noOutput(_ scanout: ScanoutID) -> SinkError {
    SinkError(.noOutput, "there is no scanout \(scanout); there are \(routes.count)")
  }

  // MARK: Frames

  package func prepare(_ frame: Frame, source: Rectangle, on scanout: ScanoutID) throws(SinkError) {
    guard let route = route(scanout) else { throw noOutput(scanout) }
    try sinks[route.sink].prepare(frame, source: source, on: route.scanout)
    knownTo[frame.id, default: []].insert(route.sink)
  }

  package func allocate(
    width: UInt32, height: UInt32, format: FourCC, on scanout: ScanoutID
  ) throws(SinkError) -> Canvas {
    guard let route = route(scanout) else { throw noOutput(scanout) }
    return try sinks[route.sink].allocate(width: width, height: height, format: format, on: route.scanout)
  }

  package func forget(_ frame: Frame) {
    for sink in knownTo.removeValue(forKey: frame.id) ?? [] { sinks[sink].forget(frame) }
  }

  // MARK: Presenting

  /// Traps for a missing scanout, because the caller must have prepared the frame there.
  package func present(_ presentation: Presentation, on scanout: ScanoutID) {
    guard let route = route(scanout) else { preconditionFailure("\(noOutput(scanout))") }
    sinks[route.sink].present(presentation, on: route.scanout)
  }

  package func turnOff(_ scanout: ScanoutID) {
    if let route = route(scanout) { sinks[route.sink].turnOff(route.scanout) }
  }

  package func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    if let route = route(scanout) { sinks[route.sink].setCursor(image, at: position, on: route.scanout) }
  }

  package func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    if let route = route(scanout) { sinks[route.sink].moveCursor(to: position, on: route.scanout) }
  }
}
