import CBench
import Fixtures
import Glibc
import Linux
import SystemPackage
import Udmabuf

/// Many helpers on one machine, each with a front end in this process and a guest that has shown one picture and draws nothing
/// more. Wake-ups are the voluntary context switches of the kernel's count; nothing else wakes a helper.
func benchScale() throws {
  let seconds: UInt32 = 10
  heading("scale: idle helpers, each with a guest that shows a picture of 64x64, in \(seconds) s")
  _ = try raiseDescriptorLimit()
  for count in [1, 10, 100] {
    let cards = try (0..<count).map { _ in try idleGuest() }
    // The helpers still wait for the last fence, until its time runs out.
    _ = cb_sleep(3_000_000)
    func sum(_ value: (Child) throws -> Double) throws -> Double {
      try cards.reduce(0) { $0 + (try value($1.child)) }
    }
    let (wakeUps, time) = (try sum { try $0.wakeUps() }, try sum { try $0.cpuTime() })
    _ = cb_sleep(seconds * 1_000_000)
    let wakeUpsAfter = try sum { try $0.wakeUps() }
    let timeAfter = try sum { try $0.cpuTime() }
    let number = Double(count)
    let name = "\(count) helper\(count == 1 ? "" : "s")"
    row("\(name), private memory of each", try sum { try $0.privateMemory() } / number, "KiB", peer: "")
    row(
      "\(name), wake-ups of all", (wakeUpsAfter - wakeUps) / Double(seconds), "a second", peer: "goal", 0,
      wakeUpsAfter == wakeUps ? "" : "MISSED")
    row(
      "\(name), CPU of all", (timeAfter - time) / Double(seconds) / 1e7, "%", peer: "goal", 0,
      timeAfter == time ? "" : "MISSED")
    for card in cards { try check(card.end() == 0, "each helper ends well when its connection closes") }
  }
}

private func idleGuest() throws -> GraphicsCard {
  let card = try GraphicsCard(try BackEndProcess.startHelper(), memory: 1 << 20)
  let (size, bytes): (UInt32, Int) = (64, 64 * 64 * 4)
  let start = card.ram.allocate(bytes)
  try card.run([
    Command.create(1, size, size), Command.attach(1, [(start, UInt32(bytes))]),
    Command.transfer(1, size, size), Command.setScanout(1, size, size),
    Command.fenced(Command.flush(1, size, size)),
  ])
  return card
}

extension Child {
  /// How often it has waited and gone on so far.
  fileprivate func wakeUps() throws -> Double {
    try number("voluntary_ctxt_switches:", in: "status")
  }

  /// Its private memory in KiB.
  fileprivate func privateMemory() throws -> Double {
    try number("Private_Clean:", in: "smaps_rollup") + number("Private_Dirty:", in: "smaps_rollup")
  }
}
