import Buffers
import Fixtures
import Pictures
import Scanout
import Testing

@testable import VirtioGPU

/// Which pointer is seen after a MOVE_CURSOR.
@Suite struct CursorTests {
  enum Step {
    case update(UInt32)
    /// The resource that the move names.
    case move(UInt32)
    /// Another driver has the card.
    case freshDriver, freshCursorQueue, reset
  }

  struct Order: CustomTestStringConvertible {
    let testDescription: String
    let steps: [Step]
    let isSeen: Bool
    init(_ name: String, _ steps: [Step], isSeen: Bool) {
      (testDescription, self.steps, self.isSeen) = (name, steps, isSeen)
    }
  }

  static let orders: [Order] = [
    Order("no move names anything, as Redox has it", [.update(2), .move(0), .move(0)], isSeen: true),
    Order("moves name the pointer", [.update(2), .move(2), .move(2)], isSeen: true),
    Order("and then nothing", [.update(2), .move(2), .move(0)], isSeen: false),
    Order("and then the pointer again", [.update(2), .move(2), .move(0), .move(2)], isSeen: true),
    Order("another picture while it is hidden", [.update(2), .move(2), .move(0), .update(3)], isSeen: true),
    Order("nothing was there to be hidden", [.move(2), .move(0), .move(2)], isSeen: false),
    Order("hidden by an update", [.update(2), .move(2), .update(0), .move(2)], isSeen: false),
    Order("hidden twice", [.update(2), .move(2), .move(0), .move(0), .move(2)], isSeen: true),
    Order("another driver", [.update(2), .move(2), .freshDriver, .update(2), .move(0)], isSeen: true),
    Order(
      "another driver hides none", [.update(2), .move(2), .move(0), .freshDriver, .move(2)], isSeen: false),
    Order("a reset", [.update(2), .move(2), .reset, .update(2), .move(0)], isSeen: true),
    Order(
      "the same driver with another queue", [.update(2), .move(2), .freshCursorQueue, .move(0)], isSeen: false
    ),
  ]

  private func makePointers(_ rig: Rig) throws {
    for id in [2, 3] as [UInt32] {
      let pages = rig.pages(4)
      rig.ram.write(id, at: pages[0].address)
      try rig.ok(Request.create(id, format: 1, 64, 64), Request.attach(id, pages))
    }
  }

  /// - Parameter isBlended: the pointer is drawn into a copy.
  @Test(
    "MOVE_CURSOR without a resource hides the cursor only if the driver's moves name it", arguments: orders,
    [false, true]) func isSeen(
      _ order: Order, isBlended: Bool
    ) throws
  {
    var outputs = Rig.outputs
    outputs[0].hasCursor = !isBlended
    let rig = try Rig(outputs: outputs, backing: .auto)
    try makePointers(rig)
    var place: Int32 = 0
    for step in order.steps {
      place += 1
      switch step {
      case .update(let id):
        #expect(try rig.askCursor(Request.updateCursor(0, id, x: place, y: place), room: 0).written == 0)
      case .move(let id):
        #expect(try rig.askCursor(Request.moveCursor(0, id, x: place, y: place), room: 0).written == 0)
      case .freshDriver:
        try rig.start(0, rig.control, fresh: true)
        try makePointers(rig)
      case .freshCursorQueue: try rig.start(1, rig.cursor, fresh: true)
      case .reset:
        rig.device.reset()
        try rig.start(0, rig.control, fresh: true)
        try rig.start(1, rig.cursor, fresh: true)
        try makePointers(rig)
      }
    }
    let wanted = order.isSeen ? CursorPosition(x: place, y: place) : nil
    #expect(rig.device.scanouts[0].cursor?.position == wanted)
    if !isBlended { #expect(rig.screen.cursors[0]?.position == wanted) }
    #expect(rig.errors.isEmpty)
  }
}
