internal import DisplayProtocol
internal import Scanout
internal import Varlink

/// A call of Watch. For a slow watcher only the kinds of changes are remembered, not the events: it gets the newest state,
/// and a very slow one costs no more memory.
final class Watcher: Feed {
  private struct Told {
    /// The last picture.
    var sequence: UInt64?
    var isShown = false
    var picture = false
    var cursor = false
  }

  private unowned let sink: ControlSink
  private weak var connection: VarlinkConnection?
  private var outputsChanged = true
  /// The changes that were not sent yet, by scanout.
  private var scanouts: [Told]

  init(_ sink: ControlSink, _ connection: VarlinkConnection) {
    (self.sink, self.connection) = (sink, connection)
    scanouts = (0..<sink.scanoutCount).map { index in
      Told(picture: sink.shown(index) != nil, cursor: sink.cursor(index) != nil)
    }
  }

  /// Sends the changes, now or when the connection has room.
  func changed(_ subject: FeedSubject, _ index: Int) {
    switch subject {
    case .outputs: outputsChanged = true
    case .picture: scanouts[index].picture = true
    case .cursor: scanouts[index].cursor = true
    }
    proceed()
  }

  /// Sends the changes for which there is room.
  func proceed() {
    // Sending can find that the peer is gone, and this watcher then goes away during the call.
    guard let connection else { return }
    while connection.isOpen, connection.isReadyToSend, let event = next() { connection.stream(event) }
  }

  /// Does nothing, because a watcher holds no frames.
  func forget(_ frame: Frame) {}

  func end() {
    guard let connection, connection.isOpen else { return }
    if connection.isReadyToSend { connection.endStream(DisplayEvent(.end)) } else { connection.close() }
  }

  private func next() -> DisplayEvent? {
    if outputsChanged {
      outputsChanged = false
      var event = DisplayEvent(.outputs)
      event.outputs = sink.displayOutputs()
      return event
    }
    for index in scanouts.indices {
      if scanouts[index].picture {
        scanouts[index].picture = false
        if let event = picture(index) { return event }
      }
      if scanouts[index].cursor {
        scanouts[index].cursor = false
        var event = DisplayEvent(.cursor)
        (event.scanout, event.cursor) = (index, sink.displayCursor(index))
        return event
      }
    }
    return nil
  }

  private func picture(_ index: Int) -> DisplayEvent? {
    let last = scanouts[index].sequence
    guard let (frame, damage) = sink.picture(index, since: last) else {
      guard scanouts[index].isShown else { return nil }
      scanouts[index].isShown = false
      var event = DisplayEvent(.off)
      event.scanout = index
      return event
    }
    let sequence = UInt64(frame.sequence)
    // The scanout went dark, and shows the same picture again.
    if last == sequence, scanouts[index].isShown { return nil }
    var event = DisplayEvent(.frame)
    event.lost = last.map { Int(sequence - $0) - 1 } ?? 0
    (event.scanout, event.frame, event.damage) = (index, frame, damage)
    (scanouts[index].sequence, scanouts[index].isShown) = (sequence, true)
    sink.statistics.events += 1
    sink.statistics.lost += event.lost ?? 0
    return event
  }
}
