import TestSupport
import Testing

/// A real guest on four screens of a card that imports no dma-buf of others and has cursor planes: the test host
/// with `--card virtio-gpu:4`.
@Suite(.testHost, .serialized) struct GuestHeadsTests {
  private static let sizes = [(1280, 800), (1024, 768), (1000, 700), (800, 600)]

  private func expectShown(_ picture: Picture, _ head: Int) throws {
    var difference: String? = "nothing was compared"
    try? waitUntil("the picture is on head \(head)") {
      difference = picture.firstDifference(in: try Screenshot.take(head: head))
      return difference == nil
    }
    #expect(difference == nil, "head \(head)")
  }

  /// modetest shows one wide picture, of which each scanout has its part.
  @Test("four scanouts each show their part of one buffer, are switched off, and one comes back")
  func fourHeads() throws {
    let more = Self.sizes.dropFirst().flatMap { ["--resolution", "\($0.0)x\($0.1)"] }
    let guest = try RunningGuest(resolution: "1280x800", options: ["--outputs", "4"] + more)
    let connectors = try guest.shell("modetest -M virtio_gpu -c | awk '$3 == \"connected\" { print $1 }'")
      .split(separator: "\n")
    try #require(connectors.count == 4, "\(connectors)")
    let targets = zip(connectors, Self.sizes).map { "-s \($0):\($1.0)x\($1.1)@XR24" }
    try guest.shell("pattern m \(targets.joined(separator: " "))")
    let wide = Picture.smpte(Self.sizes.reduce(0) { $0 + $1.0 }, Self.sizes.map(\.1).max() ?? 0)
    var left = 0
    for (head, size) in Self.sizes.enumerated() {
      let columns = left..<left + size.0
      try expectShown(Picture(width: size.0, height: size.1) { Array(wide.row($0)[columns]) }, head)
      left += size.0
    }
    let statistics = try guest.settledStatistics()
    // The card imports nothing; what is in too many pieces to be lent does not even come to that.
    let causes = Set(statistics.shadows.keys)
    #expect(!causes.isEmpty && causes.isSubset(of: ["importRefused", "listLimit"]), "\(statistics.shadows)")
    #expect(statistics.shadows.values.reduce(0, +) >= 4 && statistics.framesFailed == 0)
    for cause in causes { #expect(guest.helperLog.contains("(\(cause))")) }

    try guest.shell("drop m; true")
    try waitUntil("all copies are gone") { try guest.settledStatistics().shadowBytes == 0 }
    try guest.shell("pattern m -s \(connectors[2]):1000x700@XR24")
    try expectShown(.smpte(1000, 700), 2)
    try guest.shell("drop m; true")
    guest.end()
  }
}
