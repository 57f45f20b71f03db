import Linux
import SystemPackage
import Testing
import Udmabuf

@testable import Scanout

@Suite struct ReportQueueTests {
  /// Writes down what it hears, and then does what a test wants done in the middle of it.
  private final class Listener: ScanoutObserver {
    var heard: [String] = []
    var react: ((String) -> Void)?

    private func hear(_ text: String) {
      heard.append(text)
      react?(text)
    }
    func presented(_ sequence: UInt64, frame: Frame, on scanout: ScanoutID) {
      hear("presented \(sequence), frame \(frame.id), on \(scanout)")
    }
    func replaced(_ sequence: UInt64, on scanout: ScanoutID) { hear("replaced \(sequence) on \(scanout)") }
    func failed(_ sequence: UInt64, on scanout: ScanoutID, _ error: SinkError) {
      hear("failed \(sequence) on \(scanout): \(error.description)")
    }
    func outputsChanged() { hear("outputs") }
  }

  private let queue = ReportQueue()
  private let listener = Listener()

  @Test("the observer hears each report once, in the order of the reports")
  func order() throws {
    let file = try FD.open("/proc/self/exe", writable: false)  // never shown
    let frame = Frame(
      id: 7, memory: .lent(try DMABuf(adopting: file)),
      layout: FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256))
    let bounds = frame.layout.bounds
    queue.append(.failed(3, SinkError(.mode, "no such mode")), on: ScanoutID(1))
    queue.append(
      .presented(Presentation(frame: frame, source: bounds, damage: bounds, sequence: 1)), on: ScanoutID(0))
    queue.append(.replaced(2), on: ScanoutID(0))
    #expect(listener.heard.isEmpty)
    queue.deliver(to: listener)
    let all = ["failed 3 on 1: no such mode", "presented 1, frame 7, on 0", "replaced 2 on 0"]
    #expect(listener.heard == all)
    queue.deliver(to: listener)
    #expect(listener.heard == all)
  }

  @Test("a report that an observer causes waits for the next delivery")
  func reports() {
    listener.react = { [queue] _ in queue.append(.replaced(9), on: ScanoutID(0)) }
    queue.append(.replaced(1), on: ScanoutID(0))
    queue.append(.replaced(2), on: ScanoutID(0))
    queue.deliver(to: listener)
    #expect(listener.heard == ["replaced 1 on 0", "replaced 2 on 0"])
    listener.react = nil
    queue.deliver(to: listener)
    #expect(listener.heard.suffix(2) == ["replaced 9 on 0", "replaced 9 on 0"] && listener.heard.count == 4)
  }

  @Test("a delivery in the middle of another one tells only what came since")
  func nestedDelivery() {
    listener.react = { [queue, unowned listener] text in
      if text != "replaced 1 on 0" { return }
      queue.append(.replaced(3), on: ScanoutID(0))
      queue.deliver(to: listener)
    }
    queue.append(.replaced(1), on: ScanoutID(0))
    queue.append(.replaced(2), on: ScanoutID(0))
    queue.deliver(to: listener)
    #expect(listener.heard == ["replaced 1 on 0", "replaced 3 on 0", "replaced 2 on 0"])
    queue.deliver(to: listener)
    #expect(listener.heard.count == 3)
  }

  @Test("without an observer reports are dropped")
  func nobodyListens() {
    queue.append(.replaced(1), on: ScanoutID(0))
    queue.deliver(to: nil)
    queue.deliver(to: listener)
    #expect(listener.heard.isEmpty)
  }
}
