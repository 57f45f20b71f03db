internal import Linux

/// A picture that clients have: it is kept for them until each has let it go, and no longer than they may have it.
final class StreamedFrame {
  /// As clients know it.
  let id: UInt64
  /// Which of the scanout's pictures it is.
  let sequence: Int
  let time: Instant
  let caps: VideoCaps
  let part: StreamedPart
  /// When the guest's buffer is let go, whoever has it still.
  let deadline: Instant

  private(set) var users = 0
  /// The guest may have its buffer back.
  var whenLetGo: (() -> Void)?
  /// No client looks at it any more.
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

  /// - Parameter isAfterGap: the client has not got the one before it.
  func message(isAfterGap: Bool) -> UnixFDMessage {
    .buffer(
      UnixFDBuffer(
        id: id, time: time.reading, number: UInt64(sequence), isAfterGap: isAfterGap,
        memory: part.memory.kind, offset: part.offset, size: part.size, rows: part.rows))
  }
}
