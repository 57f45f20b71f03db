internal import Linux
internal import Scanout
internal import SystemPackage
internal import VhostUser

/// A call of Stream. From then on its connection speaks the protocol of QEMU's display socket, and the caller is the
/// front end.
///
/// The caller is told only the newest state. Frames that the caller has not answered are held for it by the rules of
/// Hold.
final class QEMUDisplayStream: Feed {
  private unowned let sink: ControlSink
  private let consumer: Consumer
  private var connection: QEMUDisplayConnection?
  /// The caller's features; nil until the caller has named them.
  private var features: QEMUDisplayFeatures?
  private let lanes: [QEMULane]
  /// The frames held until the caller answers, by scanout.
  private var held: [Frame?]

  /// - Parameter whenOver: called when the caller has hung up, or sent a forbidden message.
  init(
    _ sink: ControlSink, _ consumer: Consumer, _ socket: consuming UnixSocket, loop: EventLoop,
    whenOver: @escaping () -> Void
  ) throws(Errno) {
    (self.sink, self.consumer) = (sink, consumer)
    lanes = (0..<sink.scanoutCount).map { QEMULane(UInt32($0)) }
    held = lanes.map { _ in nil }
    connection = try QEMUDisplayConnection(
      socket, loop: loop, onReady: { [weak self] in self?.proceed() }, onEnd: { _ in whenOver() })
    // The first message finds room.
    _ = connection?.ask(.getProtocolFeatures) { [weak self] reply in
      if case .protocolFeatures(let features) = reply { self?.introduced(features) }
    }
  }

  deinit { for lane in lanes { lane.abandon() } }

  private func introduced(_ features: QEMUDisplayFeatures) {
    // The stream asks for no EDIDs.
    self.features = features.intersection(.dmabuf2)
    _ = connection?.send(.setProtocolFeatures(self.features ?? []))
    for index in lanes.indices {
      if sink.shown(index) != nil { changed(.picture, index) }
      if sink.cursor(index) != nil { changed(.cursor, index) }
    }
  }

  // MARK: Feed

  func changed(_ subject: FeedSubject, _ index: Int) {
    guard features != nil else { return }
    switch subject {
    case .outputs: return
    case .picture:
      let shown = sink.shown(index).flatMap { Self.canTell($0) ? $0 : nil }
      _ = lanes[index].queue.submit(shown.map { .present($0) } ?? .turnOff)
    case .cursor:
      guard let cursor = sink.cursor(index) else { return }
      lanes[index].setCursor(cursor.image, at: cursor.position)
    }
    proceed()
  }

  func forget(_ frame: Frame) {
    for lane in lanes { _ = lane.remove(frame) }
    proceed()
  }

  func end() { consumer.cutOff() }

  // MARK: Telling the caller

  /// The protocol cannot say where in a buffer an image begins, and has only one format for pixels.
  private static func canTell(_ presentation: Presentation) -> Bool {
    let (layout, source) = (presentation.frame.layout, presentation.source)
    guard layout.offset == 0, source.x == 0, source.y == 0 else { return false }
    if case .shadow(let memory) = presentation.frame.memory, !memory.isDMABuf {
      return layout.format == .xrgb8888 || layout.format == .argb8888
    }
    return true
  }

  private func proceed() {
    guard let connection, let features else { return }
    for (index, lane) in lanes.enumerated() {
      let hasRoom = lane.proceed(connection, features) { [weak self, weak lane] job in
        guard let self, let lane else { return }
        _ = lane.finish(job)
        hold(nil, index)
        proceed()
      }
      hold(lane.unanswered, index)
      guard hasRoom else { break }
    }
  }

  /// Holds the frame that the caller reads now, and no other one on this scanout.
  private func hold(_ frame: Frame?, _ index: Int) {
    let before = held[index]
    guard before !== frame else { return }
    held[index] = frame.flatMap { sink.hold($0, for: consumer) ? $0 : nil }
    if let before { _ = sink.release(Int(before.id), by: consumer) }
  }
}
