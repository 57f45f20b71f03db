internal import Varlink

/// A call of Watch. For a slow caller the newest events are kept, and the events left out are counted.
final class LenderWatch {
  static let capacity = 256

  private weak var connection: VarlinkConnection?
  private let concerns: (LenderEvent) -> Bool
  private var events: [LenderEvent] = []
  private var lost = 0

  /// - Parameter concerns: whether the caller may know of the event.
  init(_ connection: VarlinkConnection, _ concerns: @escaping (LenderEvent) -> Bool) {
    (self.connection, self.concerns) = (connection, concerns)
  }

  func add(_ event: LenderEvent) {
    guard concerns(event) else { return }
    if event.event.replacesEarlier {
      events.removeAll { $0.event == event.event && $0.buffer == event.buffer }
    }
    if events.count == Self.capacity {
      events.removeFirst()
      lost += 1
    }
    events.append(event)
    proceed()
  }

  /// Sends as many events as there is room for.
  func proceed() {
    while let connection, connection.isOpen, connection.isReadyToSend, !events.isEmpty {
      var event = events.removeFirst()
      (event.lost, lost) = (lost > 0 ? lost : nil, 0)
      connection.stream(event)
    }
  }
}
