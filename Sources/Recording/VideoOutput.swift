package import Linux
package import Scanout
package import SystemPackage
package import Udmabuf

/// Writes pictures at a constant rate, for a program that reads them as fast as it can.
///
/// The video begins with the first picture. Its picture N was shown N periods after that. A program that is slower than the
/// rate gets the same number of pictures, some of them newer than they should be.
package final class VideoOutput: RecordingOutput {
  package enum Form: String, CaseIterable, Sendable {
    /// `Y4M`.
    case y4m
    /// Bytes red, green, blue and 255, and nothing else.
    case raw
  }

  /// A writable pipe takes this many bytes without waiting. The corresponding C constant is `PIPE_BUF`.
  private static let mostBytes = 4096

  private let form: Form
  private let rate: Int
  private let count: Int?
  private let fd: FD
  private let loop: EventLoop
  /// Nil for a file: a file is always writable, and the loop cannot watch it.
  private var token: EventLoop.Token?
  private var timer: Timer?
  private let onCount: () -> Void
  private let onFailure: (any Error) -> Void
  private let onOtherSize: (_ picture: PixelSize, _ video: PixelSize) -> Void

  private var size: PixelSize?
  private var start: Instant?
  /// The bytes of the picture that is shown, and whether writing them has begun.
  private var (current, isCurrentBegun) = ([UInt8](), false)
  /// The bytes that are being written, and how many of them have been.
  private var (writing, written) = ([UInt8](), 0)
  private var isWatchingForWriting = false
  private var begun = 0
  private var isOver = false
  /// The video ends with this number of pictures.
  private var goal: Int?
  private var done: (() -> Void)?

  /// - Parameters:
  ///   - size: the video's; nil for that of the first picture.
  ///   - rate: pictures in a second.
  ///   - count: the video ends after this number of pictures, and `onCount` is called.
  ///   - fd: any file, pipe or socket. The pieces are so small that a write does not block when `fd` polls as writable.
  ///   - onFailure: is called once with the reason if writing fails.
  ///   - onOtherSize: is called for each picture that does not have the video's size.
  package init(
    _ form: Form, size: PixelSize?, rate: Int, count: Int?, to fd: consuming FD, loop: EventLoop,
    onCount: @escaping () -> Void, onFailure: @escaping (any Error) -> Void,
    onOtherSize: @escaping (_ picture: PixelSize, _ video: PixelSize) -> Void
  ) throws(Errno) {
    (self.form, self.size, self.rate, self.count, self.loop) = (form, size, rate, count, loop)
    (self.onCount, self.onFailure, self.onOtherSize) = (onCount, onFailure, onOtherSize)
    self.fd = fd
    timer = try Timer(loop) { [unowned self] in proceed() }
    do throws(Errno) {
      token = try loop.add(self.fd, []) { [unowned self] readiness in
        // The reader is gone. If bytes are left, writing them tells more exactly why.
        if readiness.contains(.hangup), written == writing.count { return fail(.brokenPipe) }
        proceed(isWritable: true)
      }
    } catch { if error != .notPermitted { throw error } }
  }

  deinit { if let token { loop.remove(token, fd) } }

  // MARK: RecordingOutput

  package func show(_ picture: RecordedPicture?, at time: Instant) {
    guard !isOver, goal == nil else { return }
    if let picture, size == nil { size = picture.size }
    guard let size, picture != nil || start != nil else { return }
    if let picture, picture.size != size { onOtherSize(picture.size, size) }
    let placed = picture?.placed(in: size) ?? RecordedPicture(size, filledWith: 0xff00_0000)
    // The picture before this one fills the time before `time`.
    if start != nil { begin(upTo: time) }
    switch form {
    case .y4m: current = Y4M.frame(placed)
    case .raw: current = placed.bytes
    }
    isCurrentBegun = false
    if start == nil {
      start = time
      if form == .y4m { writing = Y4M.header(size, rate: rate) }
    }
    proceed()
  }

  package func finish(at time: Instant, _ done: @escaping () -> Void) {
    guard !isOver, start != nil else { return done() }
    self.done = done
    // The video contains the last picture, however short it was shown.
    goal = min(count ?? .max, max(due(at: time), begun + (isCurrentBegun ? 0 : 1)))
    proceed()
  }

  // MARK: Time

  /// The number of pictures begun by that time, if the program keeps up.
  private func due(at time: Instant) -> Int {
    guard let start else { return 0 }
    let span = max(time - start, .zero).nanoseconds
    let (seconds, rest) = span.quotientAndRemainder(dividingBy: 1_000_000_000)
    return min(count ?? .max, Int(seconds) * rate + Int(rest) * rate / 1_000_000_000 + 1)
  }

  /// When the next picture is due.
  private var nextTime: Instant {
    let (seconds, rest) = begun.quotientAndRemainder(dividingBy: rate)
    let span = TimeSpan.seconds(Int64(seconds)) + .nanoseconds(Int64(rest) * 1_000_000_000 / Int64(rate) + 1)
    return (start ?? .now) + span
  }

  // MARK: Writing

  /// Begins the next picture, if one is due at that time and the one before it is written.
  private func begin(upTo time: Instant) {
    guard written == writing.count, begun < min(due(at: time), goal ?? .max) else { return }
    (writing, written, isCurrentBegun) = (current, 0, true)
    begun += 1
  }

  private func proceed(isWritable: Bool = false) {
    guard !isOver, start != nil else { return }
    let time = goal == nil ? Instant.now : .never
    if isWritable || token == nil {
      begin(upTo: time)
      // A file gets all of the picture at once, because no event tells when to go on.
      repeat { writeSome() } while token == nil && written < writing.count && !isOver
    }
    if isOver { return }
    begin(upTo: time)
    let isIdle = written == writing.count
    watch(forWriting: !isIdle)
    if isIdle, begun == goal { return end(done) }
    if isIdle, begun == count { return end(onCount) }
    if isIdle || token == nil { timer?.arm(after: isIdle ? nextTime - .now : .zero) }
  }

  private func watch(forWriting isWanted: Bool) {
    guard let token, isWanted != isWatchingForWriting else { return }
    isWatchingForWriting = isWanted
    do throws(Errno) { try loop.modify(token, fd, isWanted ? .writable : []) } catch { fail(error) }
  }

  private func writeSome() {
    let next = min(Self.mostBytes, writing.count - written)
    if next == 0 { return }
    do throws(Errno) {
      written += unsafe try fd.writeSome(writing.span.bytes.extracting(written..<written + next))
    } catch {
      if error != .wouldBlock { fail(error) }
    }
  }

  private func end(_ then: (() -> Void)?) {
    stop()
    then?()
  }

  private func fail(_ error: Errno) {
    guard !isOver else { return }
    stop()
    onFailure(error)
  }

  private func stop() {
    isOver = true
    timer = nil
    if let token = token.take() { loop.remove(token, fd) }
  }
}
