internal import Linux

/// A picture that clients have. It is kept until each has released it, and at most until its deadline.
final class StreamedFrame {
  /// The picture's number for clients.
  let id: UInt64
  /// The picture's number among the scanout's.
  let sequence: Int
  let time: Instant
  let caps: VideoCaps
  let part: StreamedPart
  /// When the guest gets its buffer back, even if clients still have the picture.
  let deadline: Instant

  private(set) var users = 0
  /// Called when the guest may have its buffer back.
  var whenLetGo: (() -> Void)?
  /// Called when no client reads the picture any more.
  var whenUnused: (() -> Void)?

  init(
    id: UInt64, sequence: Int, time: Instant, deadline: Instant, caps: VideoCaps, part: StreamedPart
  ) {
    (self.id, self.sequence, self.time, self.deadline) = (id, sequence, time, deadline)
    (self.caps, self.part) = (caps, part)
  }

  func acquire() { users += 1 }

  func release() {
    users -= 1
    if users > 0 { return }
    letGo()
    whenUnused.take()?()
  }

  func letGo() { whenLetGo.take()?() }

  /// - Parameter isAfterGap: the client has not got the picture before this one.
  func message(isAfterGap: Bool) -> UnixFDMessage {
    .buffer(
      UnixFDBuffer(
        id: id, time: time.reading, number: UInt64(sequence), isAfterGap: isAfterGap,
        memory: part.memory.kind, offset: part.offset, size: part.size, rows: part.rows))
  }
}
