package import DisplayProtocol
package import Linux
internal import Pictures
package import Scanout
package import SystemPackage
package import Udmabuf
package import Varlink

/// Why a frame, or anything more, cannot be presented.
package enum PresentingError: Error, CustomStringConvertible {
  /// The helper has closed a connection, and the reserve has none left to replace it.
  case reserveIsUsedUp
  case unshowable(DisplayFrame)

  package var description: String {
    switch self {
    case .reserveIsUsedUp:
      "the helper has taken back once too often a buffer that was held for too long"
    case .unshowable(let frame):
      "a frame of \(frame.width)x\(frame.height) \(frame.format) cannot be shown"
    }
  }
}

/// The picture on a screen.
package struct PresentedPicture: Equatable, Encodable {
  package let scanout: Int
  package let output, picture: String
  /// Why the picture is a copy; nil if the buffer itself is on the screen.
  package let copied: String?
}

/// The numbers of frames by their fate.
package struct PresentCounts: Equatable, Encodable {
  package var shown = 0
  /// Frames that another one replaced within the same refresh.
  package var coalesced = 0
  package var failed = 0
  /// Buffers that were received.
  package var buffers = 0
  package var bytesCopied: UInt64 = 0
}

/// Follows a control socket, and shows its scanouts on those of a sink.
package final class Presenter: ScanoutObserver {
  let sink: any ScanoutSink
  let maker: PictureMaker
  let loop: EventLoop
  private let path: FilePath
  private var reserve: [VarlinkClient]?
  let udmabuf: UdmabufDevice?
  let showsCursor: Bool
  /// Receives each new kind of picture on a screen. A log's limit holds for pictures and complaints together.
  private let onPicture: (PresentedPicture) -> Void
  private let onComplaint: (String) -> Void
  private var watch: DisplayWatch?
  private var scanouts: [PresentedScanout] = []
  private var lines = LineLimit()
  private var lastComplaint: String?
  package internal(set) var counts = PresentCounts()
  /// The error that ended the presenter, if any.
  package private(set) var failure: (any Error)?

  /// Connects, and calls no methods yet.
  /// - Parameters:
  ///   - watching: a connection for the call of Watch.
  ///   - reserve: the number of connections that are made in advance, with no others later. If nil, connections are
  ///     made when they are needed.
  ///   - udmabuf: makes dma-bufs of the copies that the helper offers as memfds.
  ///   - onPicture: receives each scanout's picture when its kind has changed.
  ///   - onComplaint: receives the reason why something could not be shown, in one line.
  package init(
    _ watching: VarlinkClient, _ path: FilePath, _ sink: any ScanoutSink, reserve: Int?, showsCursor: Bool,
    udmabuf: UdmabufDevice?, loop: EventLoop, onPicture: @escaping (PresentedPicture) -> Void,
    onComplaint: @escaping (String) -> Void
  ) throws {
    (self.path, self.sink, self.loop, self.udmabuf) = (path, sink, loop, udmabuf)
    maker = PictureMaker(sink)
    (self.showsCursor, self.onPicture, self.onComplaint) = (showsCursor, onPicture, onComplaint)
    self.reserve = try reserve.map { try (0..<$0).map { _ in try VarlinkClient(path) } }
    scanouts = try sink.outputs.indices.map { try PresentedScanout($0, self, VarlinkClient(path)) }
    watch = try DisplayWatch(watching, loop: loop) { [unowned self] in
      take($0)
    } onEnd: { [unowned self] error in
      if let error { end(error) } else { loop.stop() }
    }
    sink.observer = self
  }

  package func start() throws { try watch?.start() }

  /// A connection to replace one that the helper has closed; nil if there is none now, or the reserve is used up.
  func connectAgain() -> VarlinkClient? {
    guard let left = reserve?.count else { return try? VarlinkClient(path) }
    if left == 0 { end(PresentingError.reserveIsUsedUp) }
    return reserve?.popLast()
  }

  func end(_ error: any Error) {
    failure = failure ?? error
    loop.stop()
  }

  deinit { stop() }

  /// Stops listening to the helper.
  package func stop() {
    watch?.stop()
    for scanout in scanouts { scanout.stop() }
  }

  // MARK: Events from the helper

  private func take(_ event: DisplayEvent) {
    let number = event.frame?.scanout ?? event.cursor?.scanout ?? event.scanout ?? 0
    guard scanouts.indices.contains(number) else { return }
    let scanout = scanouts[number]
    switch event.event {
    case .frame:
      if let frame = event.frame { scanout.changed(frame, event.damage?.clipped(to: frame)) }
    case .off: scanout.turnOff()
    case .cursor:
      if showsCursor, let cursor = event.cursor { scanout.moveCursor(cursor) }
    case .outputs: expect(event.outputs ?? [])
    case .end: break
    }
  }

  private func expect(_ outputs: [DisplayOutput]) {
    // QEMU can have more scanouts than it uses.
    let count = (outputs.lastIndex { !$0.modes.isEmpty } ?? -1) + 1
    if count > scanouts.count {
      complain(
        "the guest has \(count) scanouts, and the first \(scanouts.count) are shown; name more connectors for the rest"
      )
    }
  }

  // MARK: Results from the card

  package func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) { counts.shown += 1 }

  package func replaced(_ sequence: UInt64, on scanout: ScanoutID) { counts.coalesced += 1 }

  package func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
    counts.failed += 1
    if error.refusal == .disconnected { end(error) } else { complain("\(error)") }
  }

  package func outputsChanged() { for scanout in scanouts { scanout.outputChanged() } }

  // MARK: Reports to the user

  func say(_ picture: FrameLayout, on index: Int, copied why: String?) {
    switch lines.next() {
    case .write:
      onPicture(
        PresentedPicture(
          scanout: index, output: sink.outputs[index].name, picture: picture.description, copied: why))
    case .sayItIsFull: onComplaint(LineLimit.full)
    case .leaveOut: break
    }
  }

  /// Reports a complaint, unless the last one was the same.
  func complain(_ what: String) {
    if what == lastComplaint { return }
    lastComplaint = what
    if let line = lines.admit(what) { onComplaint(line) }
  }
}
