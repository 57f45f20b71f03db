import Linux
import SystemPackage
import Testing
import Udmabuf

@testable import Scanout

@Suite struct PresentationQueueTests {
  private let queue = PresentationQueue()
  private let a = Self.frame(1)
  private let b = Self.frame(2)
  private let c = Self.frame(3)

  /// No device is needed: a frame of this test is never shown.
  private static func frame(_ id: UInt64) -> Frame {
    let memfd = try! FD.open("/proc/self/exe", writable: false)
    return Frame(
      id: id, memory: .lent(try! DMABuf(adopting: memfd)),
      layout: FrameLayout(width: 64, height: 48, format: .xrgb8888, stride: 256))
  }

  private func present(_ frame: Frame, _ damage: Rectangle? = nil, sequence: UInt64 = 0) -> Bool {
    let bounds = frame.layout.bounds
    return queue.submit(
      .present(Presentation(frame: frame, source: bounds, damage: damage ?? bounds, sequence: sequence)))
  }

  private var current: Presentation? {
    if case .present(let presentation) = queue.current { presentation } else { nil }
  }

  private var uses: [Int] { [a.uses, b.uses, c.uses] }

  @Test("one frame is shown, one is on its way, and one waits") func oneIsShownOneOnItsWayOneWaits() {
    #expect(present(a) && queue.isBusy && uses == [1, 0, 0])
    #expect(!queue.completed() && queue.shown?.frame === a)
    #expect(present(b) && uses == [1, 1, 0])
    #expect(!present(c) && uses == [1, 1, 1])
    #expect(!present(a) && uses == [2, 1, 0])
    #expect(queue.completed() && queue.shown?.frame === b && uses == [1, 1, 0])
    #expect(current?.frame === a)
    #expect(!queue.completed() && uses == [1, 0, 0] && !queue.isBusy)
  }

  @Test("damage adds up while a frame waits") func damageAddsUpWhileItWaits() {
    let (left, right) = (
      Rectangle(x: 0, y: 0, width: 8, height: 8), Rectangle(x: 40, y: 4, width: 8, height: 8)
    )
    #expect(present(a, left))
    #expect(current?.damage == a.layout.bounds, "the first presentation of a frame is all new")
    #expect(!present(a, left) && !present(a, right))
    _ = queue.completed()
    #expect(current?.damage == Rectangle(x: 0, y: 0, width: 48, height: 12))
    _ = queue.completed()
    #expect(present(a, right) && current?.damage == right)
    #expect(!present(b, left))
    _ = queue.completed()
    #expect(current?.damage == b.layout.bounds, "another frame is all new")
  }

  @Test("a refused step leaves the frame that was shown") func refusedStepLeavesWhatWasShown() {
    _ = present(a)
    _ = queue.completed()
    _ = present(b, sequence: 5)
    _ = present(b, Rectangle(x: 1, y: 1, width: 1, height: 1), sequence: 6)
    #expect(queue.failed() && queue.shown?.frame === a)
    #expect(current?.sequence == 6 && current?.damage == b.layout.bounds)
    #expect(!queue.failed() && uses == [1, 0, 0])
  }

  @Test("a turn-off empties the screen") func turnOffEmptiesTheScreen() {
    _ = present(a)
    #expect(!queue.submit(.turnOff))
    #expect(queue.completed() && uses == [1, 0, 0])
    #expect(!queue.completed() && queue.shown == nil && uses == [0, 0, 0])
  }

  @Test("a waiting frame can be removed") func removesAWaitingFrame() {
    _ = present(a)
    _ = present(b, sequence: 2)
    let removal = queue.remove(b)
    #expect(removal.waiting?.sequence == 2 && removal.inFlight == nil && !removal.wasShown)
    #expect(current?.frame === a && uses == [1, 0, 0])
  }

  @Test("removing the frame on its way leaves the screen dark")
  func removingTheOneOnItsWayLeavesTheScreenDark() {
    _ = present(a)
    _ = queue.completed()
    _ = present(b, sequence: 2)
    _ = present(c, Rectangle(x: 0, y: 0, width: 1, height: 1), sequence: 3)
    let removal = queue.remove(b)
    #expect(removal.inFlight?.sequence == 2 && removal.waiting == nil && !removal.wasShown)
    #expect(queue.shown == nil && current?.frame === c && current?.damage == c.layout.bounds)
    #expect(uses == [0, 0, 1])
  }

  /// The display was never told of it: what it shows stays.
  @Test("removing a frame that was not started leaves the frame that is shown")
  func removingOneThatWasNotStartedLeavesWhatIsShown() {
    _ = present(a)
    _ = queue.completed()
    _ = present(b, sequence: 2)
    let removal = queue.remove(b, isStarted: false)
    #expect(removal.inFlight?.sequence == 2 && !removal.wasShown)
    #expect(queue.shown?.frame === a && !queue.isBusy && uses == [1, 0, 0])
    // The same frame again, not started, and on the screen: cut off all the same.
    _ = present(a, sequence: 3)
    let both = queue.remove(a, isStarted: false)
    #expect(both.inFlight?.sequence == 3 && both.wasShown && queue.shown == nil && uses == [0, 0, 0])
  }

  @Test("a shown frame can be removed") func removesAShownFrame() {
    _ = present(a)
    _ = queue.completed()
    _ = present(b)
    #expect(queue.remove(a).wasShown)
    #expect(queue.shown == nil && current?.frame === b && uses == [0, 1, 0])
    let none = queue.remove(c)
    #expect(!none.wasShown && none.inFlight == nil && none.waiting == nil)
  }

  @Test("a frame that is shown, on its way and waiting is removed from all places")
  func removesAFrameThatIsEverywhere() {
    _ = present(a)
    _ = queue.completed()
    _ = present(a)
    _ = present(a)
    #expect(a.uses == 3)
    let removal = queue.remove(a)
    #expect(removal.wasShown && removal.inFlight != nil && removal.waiting != nil)
    #expect(a.uses == 0 && !queue.isBusy && queue.shown == nil)
  }

  /// Each presentation that is not shown is told once.
  @Test("each presentation that is not shown is reported once") func tellsWhatWasReplaced() {
    var replaced: [UInt64] = []
    queue.whenReplaced = { replaced.append($0) }
    for sequence in 1...4 { _ = present(a, sequence: UInt64(sequence)) }
    #expect(replaced == [2, 3])
    _ = queue.submit(.turnOff)
    #expect(replaced == [2, 3, 4])
    _ = queue.completed()
    _ = queue.completed()
    #expect(replaced == [2, 3, 4])
    for sequence in 5...6 { _ = present(b, sequence: UInt64(sequence)) }
    queue.removeAll()
    #expect(replaced == [2, 3, 4, 5, 6] && uses == [0, 0, 0])
  }

  /// Whoever gets a frame back may ask the queue for more, in the middle of what it is doing.
  @Test("a frame's last use may submit another frame in the middle of a step") func canBeCalledBack() {
    _ = present(a)
    _ = queue.completed()
    var again = false
    a.whenIdle = { [queue] in
      #expect(queue.shown?.frame === b)
      again = present(c)
    }
    _ = present(b)
    let next = queue.completed()
    #expect(again && !next && current?.frame === c, "whoever submitted it starts it")
    queue.removeAll()
    #expect(uses == [0, 0, 0])
  }
}
