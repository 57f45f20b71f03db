import CBench
import Fixtures
import Glibc
import Linux
import SystemPackage
import Udmabuf

/// What frames cost: the CPU time of the back end, its kernel's share included, and the bytes that it copies.
///
/// The peer is QEMU's own `vhost-user-gpu`, in C, without virgl; the same front end drives both by turns, with
/// pages that are all apart. It keeps an image of its own for each resource, into which a transfer copies,
/// and shows that image on the display socket: as a udmabuf where there is `/dev/udmabuf`, else by writing its
/// pixels. The helper lends the guest's pages and shows them on such a socket too, behind which there is nothing: what
/// drawing them costs is in neither figure.
func benchFrames() throws {
  guard let peer = unsafe getenv("UDMABRIDGE_PEER").map({ unsafe FilePath(platformString: $0) }) else {
    print()
    print("frames: no peer: UDMABRIDGE_PEER names none; qemu/bench fetches it")
    return
  }
  if let failure = deviceFailure() {
    print()
    print("frames: no \(UdmabufDevice.path) here (\(failure)): measured in the test host, by qemu/bench")
    return
  }
  try withListLimit(8100) {
    heading("frames: CPU time of the back end, and what it copies; pages of a guest that are all apart")
    let sizes = try [(1024, 768), (1920, 1080), (3840, 2160)].map {
      try Match(peer, width: $0.0, height: $0.1)
    }
    for size in sizes { try size.measure() }
    try compare(sizes.last!, sizes.first!)
    for size in sizes { try size.end() }
  }
}

func deviceFailure() -> Errno? {
  do throws(Errno) { _ = try UdmabufDevice() } catch { return error }
  return nil
}

/// The helper and its peer with a guest of the same screen.
private final class Match {
  let name: String
  let bytes: Int
  let ours: Screen
  private let theirs: Screen
  private let statistics: FilePath
  /// The peer may be behind, but not by less than this.
  private var goal: Double { bytes >= 3840 * 2160 * 4 ? 100 : 1 }

  init(_ peer: FilePath, width: UInt32, height: UInt32) throws {
    name = "\(width)x\(height)"
    bytes = Int(width) * Int(height) * 4
    statistics = FilePath("/tmp/udmabridge-bench-\(getpid())-\(name)")
    ours = try Screen(
      try BackEndProcess.startHelper(["--backing", "lent", "--stats", statistics.string]), width: width,
      height: height)
    theirs = try Screen(try BackEndProcess.start(peer), width: width, height: height)
  }

  func measure() throws {
    try compare("\(name), create to unref", 7) { try $0.live(.apart) }
    try compare("\(name), create to unref, one piece", 7) { try $0.live(.onePiece) }
    try compare("\(name), flip", 21) { try $0.flip() }
    try compareDelays()
  }

  /// From the kick until the display has been told of the frame.
  private func compareDelays() throws {
    var pairs = Pairs()
    let (ours, theirs) = (ours, theirs)
    try pairs.measure(
      401, { try nanoseconds { try ours.flip() } / 1000 }, { try nanoseconds { try theirs.flip() } / 1000 })
    for (what, share) in [("median", 0.5), ("99th percentile", 0.99)] {
      let (mine, peer) = (pairs.ours.quantile(share), pairs.theirs.quantile(share))
      row(
        "\(name), kick to shown, \(what)", mine, "us", peer: "vhost-user-gpu", peer,
        ratio: mine / peer, "goal 1.00" + (mine / peer <= 1 ? "" : "  MISSED"))
    }
  }

  private func compare(_ what: String, _ count: Int, _ body: (Screen) throws -> Void) throws {
    let (ours, theirs) = (ours, theirs)
    for screen in [ours, theirs] { try body(screen) }
    var pairs = Pairs()
    try pairs.measure(
      count, { try ours.cpuTime { try body(ours) } }, { try theirs.cpuTime { try body(theirs) } })
    let ahead = 1 / pairs.ratio
    row(
      what, pairs.ours.median, "us CPU", peer: "vhost-user-gpu", pairs.theirs.median, ratio: pairs.ratio,
      "ahead \(short(ahead)) times, goal \(fixed(goal, 0))" + (ahead >= goal ? "" : "  MISSED"))
  }

  /// Ends both, and tells what they copied.
  func end() throws {
    let copied = theirs.transferred + theirs.card.display.bytesReceived
    try check(theirs.card.end() == 0, "the peer ends well when its connection closes")
    try check(ours.card.end() == 0, "the helper ends well when its connection closes")
    let own = try numberInJSON("bytesCopied", statistics)
    removeFile(statistics)
    try check(own == 0, "what is lent is not copied, but \(own) bytes were")
    row(
      "\(name), copied for each frame", Double(own) / Double(ours.frames), "bytes", peer: "vhost-user-gpu",
      Double(copied) / Double(theirs.frames))
  }
}

/// The goal of lending: the size does not matter.
private func compare(_ large: Match, _ small: Match) throws {
  var pairs = Pairs()
  try pairs.measure(
    101, { try large.ours.cpuTime { try large.ours.flip() } },
    { try small.ours.cpuTime { try small.ours.flip() } })
  row(
    "\(large.name), flip", pairs.ours.median, "us CPU", peer: "\(small.name), flip", pairs.theirs.median,
    ratio: pairs.ratio, "goal 1.00")
}

/// How a guest's memory lies that an image is in.
private enum Pages { case apart, onePiece }

/// A guest's screen of one size: a back end, and a driver with two buffers whose pages are all apart.
private final class Screen {
  let card: GraphicsCard
  private let width, height: UInt32
  /// The commands of one buffer's life, and of a flip to each of two.
  private var lives: [Pages: [[UInt8]]] = [:]
  private var flipping: [[[UInt8]]] = []
  private(set) var flips = 0
  private(set) var frames = 0

  init(_ process: consuming BackEndProcess, width: UInt32, height: UInt32) throws {
    (self.width, self.height) = (width, height)
    let bytes = Int(width) * Int(height) * 4
    card = try GraphicsCard(process, memory: 256 << 20)
    for id: UInt32 in 1...2 {
      let pages = pagesApart(makeMemory(bytes), bytes)
      try card.run([Command.create(id, width, height), Command.attach(id, pages)])
      flipping.append([
        Command.transfer(id, width, height), Command.setScanout(id, width, height),
        Command.flush(id, width, height),
      ])
    }
    let start = makeMemory(bytes)
    for (pages, list) in [(Pages.apart, pagesApart(start, bytes)), (.onePiece, [(start, UInt32(bytes))])] {
      lives[pages] = [
        Command.create(3, width, height), Command.attach(3, list), Command.transfer(3, width, height),
        Command.flush(3, width, height), Command.unref(3),
      ]
    }
  }

  /// Memory that holds something.
  private func makeMemory(_ bytes: Int) -> UInt64 {
    let start = card.ram.allocate(bytes)
    card.ram.write([UInt8](repeating: 0x5a, count: bytes), at: start)
    return start
  }

  func live(_ pages: Pages) throws {
    try card.run(lives[pages]!)
    frames += 1
  }

  func flip() throws {
    try card.run(flipping[flips % 2])
    (flips, frames) = (flips + 1, frames + 1)
    try card.waitForFrames(flips)
  }

  /// What it was asked to transfer, in bytes.
  var transferred: Int { frames * Int(width) * Int(height) * 4 }

  /// The CPU time that `body` costs the back end, in microseconds.
  func cpuTime(_ body: () throws -> Void) throws -> Double {
    let before = try card.child.cpuTime()
    try body()
    return (try card.child.cpuTime() - before) / 1000
  }
}

/// A number of a JSON object that stands on a line of its own.
private func numberInJSON(_ name: String, _ path: FilePath) throws -> Int {
  for line in try readText(path).split(separator: "\n") {
    let parts = line.split(separator: ":")
    if parts.count == 2, parts[0].contains("\"\(name)\""), let number = Int(parts[1].filter(\.isNumber)) {
      return number
    }
  }
  throw WrongResult("\(path) tells \(name)")
}
