import Buffers
import Fixtures
import Scanout
import Testing

@testable import VirtioGPU

@Suite struct TurnTests {
  /// A guest with little memory can have large pictures, and have them copied again and again.
  @Test func largeCopiesLeaveTurnsToOthers() throws {
    let rig = try Rig(backing: .auto, patience: GPUDevice.Patience())
    let (side, count) = (UInt32(4096), 32)
    let entries = (0..<1024).map { _ in (address: UInt64(0x10_0000), length: UInt32(64 << 10)) }
    try rig.ok(Request.create(1, side, side), Request.attach(1, entries))
    // From one row below its own place: the whole picture is copied each time.
    let area = Rectangle(0, 0, side, side - 1)
    for _ in 0..<count { rig.control.send(Request.transfer(1, area, offset: UInt64(side) * 4), answer: 24) }

    var answered = 0
    func collect() {
      while let answer = rig.answer() {
        #expect(answer.type == ResponseType.ok)
        answered += 1
      }
    }
    rig.device.kicked(0)
    collect()
    #expect(answered > 0 && answered < count, "\(answered) of \(count) in one turn")
    try rig.settle()
    collect()
    #expect(answered == count)
  }
}
