import TestSupport
import Testing

/// A real guest on four screens of a card that imports no dma-buf of others and has cursor planes: the test host
/// with `--card virtio-gpu:4`.
@Suite(.testHost, .serialized) struct GuestHeadsTests {
  private static let sizes = [(1280, 800), (1024, 768), (1000, 700), (800, 600)]

  private func expectShown(_ picture: Picture, _ head: Int) throws {
    var difference: String? = "nothing was compared"
    try? waitUntil("the picture is on head \(head)", seconds: 30) {
      difference = picture.firstDifference(in: try Screenshot.take(head: head))
      return difference == nil
    }
    #expect(difference == nil, "head \(head)")
  }

  @Test("four scanouts, each with its own mode, switched off and on") func fourHeads() throws {
    let more = Self.sizes.dropFirst().flatMap { ["--resolution", "\($0.0)x\($0.1)"] }
    let guest = try RunningGuest(resolution: "1280x800", options: ["--outputs", "4"] + more)
    for (head, size) in Self.sizes.enumerated() {
      let name = "p\(head)"
      try guest.shell("hold \(name) draw -o \(head) pattern \(size.0)x\(size.1) XR24 \(20 + head) hold")
    }
    let pictures = Self.sizes.enumerated().map { Picture.positions($1.0, $1.1, seed: UInt32(20 + $0)) }
    for (head, picture) in pictures.enumerated() { try expectShown(picture, head) }
    // A cursor is on a plane of its own: no picture changes for it.
    #expect(try guest.shell("tell p1 cursor 100 100; tell p1 dirty 0 0 1024 768") == "cursor\ndirtied\n")
    try expectShown(pictures[1], 1)
    let statistics = try guest.settledStatistics()
    #expect(statistics.shadows == ["importRefused": 4] && statistics.framesFailed == 0)
    #expect(guest.helperLog.contains("(importRefused)"))

    #expect(try guest.shell("tell p2 quit; drop p2; draw -o 2 off") == "off\n")
    try waitUntil("its copy is gone") {
      try guest.settledStatistics().shadowBytes < statistics.shadowBytes
    }
    for head in [0, 1, 3] { try expectShown(pictures[head], head) }
    try guest.shell("hold p2 draw -o 2 pattern 1000x700 XR24 30 hold")
    try expectShown(.positions(1000, 700, seed: 30), 2)
    guest.end()
  }
}
