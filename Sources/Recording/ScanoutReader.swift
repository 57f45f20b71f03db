internal import DisplayProtocol
package import Linux
internal import Scanout
package import SystemPackage
internal import Udmabuf
internal import Varlink

/// Copies a scanout's picture by calls on a connection of its own, one at a time.
///
/// The reader holds a frame only while it reads the frame.
package final class ScanoutReader {
  package typealias Answer = (Result<Void, any Error>) -> Void

  private let scanout: Int
  private let loop: EventLoop
  private var caller: DisplayCaller?
  /// Why the connection is over.
  private var closing: VarlinkClientError?
  /// Takes the answer of the call that is under way.
  private var answer: Answer?

  /// The picture that was read last, without a cursor.
  private var last: (picture: RecordedPicture, sequence: Int, layout: FrameLayout, source: Rectangle)?
  /// The cursor's last known place. Its image may not be read yet.
  var cursor: DisplayCursor?
  private var image: (number: Int, pixels: CursorImage)?

  /// Connects, and calls nothing yet.
  /// - Parameter scanout: its number, from 0 on.
  package init(_ path: FilePath, scanout: Int, loop: EventLoop) throws {
    (self.scanout, self.loop) = (scanout, loop)
    try connect(path)
  }

  /// Connects again after a call that ended with its connection. Must not be called while a call is under way.
  func connect(_ path: FilePath) throws {
    caller = try DisplayCaller(VarlinkClient(path), loop: loop) { [unowned self] error in
      closing = error
      finish(.failure(error))
    }
    closing = nil
  }

  private func finish(_ result: Result<Void, any Error>) { answer.take()?(result) }

  private func call(
    _ method: String, _ request: DisplayRequest, _ answer: @escaping Answer,
    _ take: @escaping (inout VarlinkClient.Reply) throws -> Void
  ) {
    precondition(self.answer == nil, "one call at a time")
    if let closing { return answer(.failure(closing)) }
    self.answer = answer
    caller?.call(method, request) { [unowned self] result in
      switch consume result {
      case .success(var reply):
        do { try take(&reply) } catch { return finish(.failure(error)) }
        finish(.success(()))
      case .failure(let error): finish(.failure(error))
      }
    }
  }

  // MARK: The frame

  /// Reads the frame that is shown now: only the part that has changed since the last one that was read.
  package func readFrame(_ answer: @escaping Answer) {
    call("GetFrame", DisplayRequest(scanout: scanout, since: last?.sequence, hold: true), answer) {
      [unowned self] reply in
      let told = try reply.decode(DisplayFrameReply.self)
      defer { caller?.call("Release", DisplayRequest(buffer: told.frame.buffer)) { _ in } }
      guard let fd = reply.descriptor.take() else { throw RecordingError.noDescriptor }
      take(try FrameMapping(fd, told.frame), told)
    }
  }

  private func take(_ frame: FrameMapping, _ told: DisplayFrameReply) {
    let source = frame.source
    let size = PixelSize(width: source.width, height: source.height)
    let isSame =
      last.map {
        $0.source == source && $0.layout == frame.layout && $0.sequence <= told.frame.sequence
      } ?? false
    if !isSame {
      last = (RecordedPicture(size, filledWith: 0), told.frame.sequence, frame.layout, source)
    }
    // If the image and its place are the same, copies the damage that the service names, and otherwise all of it.
    let damage = isSame ? told.damage.clipped(to: told.frame)?.intersection(source) ?? source : source
    last?.picture.copy(damage, of: source, from: frame)
    last?.sequence = told.frame.sequence
  }

  /// Called when the scanout shows nothing: the next frame is then read as a whole.
  func forgetFrame() { last = nil }

  // MARK: The cursor

  /// The cursor is visible, and its image has not been read.
  var needsImage: Bool { cursor.map { $0.visible && $0.image != image?.number } ?? false }

  /// Reads the cursor's place and its image.
  package func readCursor(_ answer: @escaping Answer) {
    call("GetCursor", DisplayRequest(scanout: scanout), answer) { [unowned self] reply in
      let told = try reply.decode(DisplayCursorReply.self).cursor
      // An event may have told a later place already.
      cursor = cursor ?? told
      guard let fd = reply.descriptor.take() else { return }
      do throws(Errno) {
        let size = Int(CursorImage.side * CursorImage.side) * 4
        let pixels = try Memfd(adopting: fd).mapForReading(size).bytes(at: 0, count: size)
        let (hotX, hotY) = (UInt32(clamping: told.hotX), UInt32(clamping: told.hotY))
        image = (told.image, CursorImage(pixels: pixels, hotX: hotX, hotY: hotY))
      } catch { throw RecordingError.cursor(error) }
    }
  }

  // MARK: The picture

  /// The picture that was read last, with the cursor if its place and image are known; nil if no frame is shown.
  package var picture: RecordedPicture? {
    guard var picture = last?.picture else { return nil }
    if let cursor, cursor.visible, let image, image.number == cursor.image {
      picture.draw(image.pixels, x: cursor.x, y: cursor.y)
    }
    return picture
  }
}
