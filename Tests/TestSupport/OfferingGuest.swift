package import Consumers
internal import DisplayProtocol
internal import Fixtures
internal import Foundation
package import Linux
package import Scanout
package import SystemPackage
internal import Varlink

/// A guest whose frames are offered on a control socket, all of it in this process and in one loop.
package final class OfferingGuest {
  package let directory: FilePath
  package let loop: EventLoop
  package let output: SinkOutput
  package let sink: ControlSink
  /// What it has made, in the order of their numbers from 1 on.
  package private(set) var frames: [Frame] = []
  private let server: VarlinkServer
  private var shown: UInt64 = 0

  package var control: FilePath { directory.appending("control") }

  package init() throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    output = SinkOutput(name: "Virtual-1", modes: [.reducedBlanking(width: 640, height: 480)!])
    sink = try ControlSink(outputs: [output], loop: loop)
    let interface = DisplayInterface(sink) { _ in Array("{}".utf8) }
    server = try VarlinkServer(
      UnixSocket.listen(directory.appending("control")),
      info: VarlinkInfo(vendor: "", product: "", version: "", url: ""), interfaces: [interface], loop: loop
    ) { _ in true }
    interface.server = server
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// Handles what there is to do.
  package func settle() throws {
    for _ in 0..<10_000 where try loop.turn(waiting: .zero) == 0 { return }
    throw TroubleInTest("the loop does not come to rest")
  }

  /// Makes a buffer that can only be copied.
  package func make(_ layout: FrameLayout) throws -> (frame: Frame, memory: MemfdShadow) {
    let memory = try MemfdShadow.make(layout)
    let frame = Frame(id: UInt64(frames.count + 1), memory: .shadow(memory), layout: layout)
    frames.append(frame)
    return (frame, memory)
  }

  /// Shows a buffer, or a part of it; nobody has heard of it yet.
  package func show(_ frame: Frame, _ source: Rectangle? = nil) throws {
    let source = source ?? frame.layout.bounds
    shown += 1
    try sink.prepare(frame, source: source, on: ScanoutID(0))
    sink.present(
      Presentation(frame: frame, source: source, damage: source, sequence: shown), on: ScanoutID(0))
  }

  package func turnOff() { sink.turnOff(ScanoutID(0)) }
}
