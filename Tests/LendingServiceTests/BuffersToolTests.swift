import Buffers
import Foundation
import Glibc
import Lending
import LendingProtocol
import Linux
import SystemPackage
import TestSupport
import Testing
import Udmabuf
import Varlink

@testable import LendingService

/// `udmabridge buffers`, and the commands that take `--buffer`, beside a service in this process.
@Suite struct BuffersToolTests {
  private let rig: LendingRig
  private var socket: String { rig.directory.appending("socket").string }

  init() throws {
    rig = try LendingRig()
  }

  /// Runs the tool, and serves it meanwhile.
  private func run(_ arguments: [String]) throws -> (status: Int32, output: String) {
    try finish(start(arguments))
  }

  private func start(_ arguments: [String]) throws -> (Child, PipeEnd) {
    let (child, output) = try startReading(
      builtPrograms.appending("udmabridge"), arguments, withErrors: true)
    return (child, output)
  }

  private func finish(_ running: (child: Child, output: PipeEnd)) throws -> (status: Int32, output: String) {
    var status: Int32?
    try rig.waitUntil("the tool ends") {
      status = running.child.poll()
      return status != nil
    }
    return (status ?? -1, try running.output.readToEnd())
  }

  private func object(_ text: String) throws -> [String: Any] {
    try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any], "\(text)")
  }

  /// What is lent: 5000 bytes from 100 on, each with a value of its place.
  private func write(_ lent: LendingRig.Lent) throws -> [UInt8] {
    let bytes = (0..<UInt32(16384)).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) }
    try map(lent).store(unsafe bytes.span.bytes, at: 0)
    return bytes
  }

  private func map(_ lent: LendingRig.Lent) throws -> Mapping {
    try lent.memfd.withDescriptor { fd throws(Errno) in
      try Mapping(fd, offset: 0, length: 16384, writable: true)
    }
  }

  @Test("list and query print a lent buffer's facts, as text and as JSON")
  func facts() throws {
    #expect(try run(["buffers", "list", "--control", socket]) == (0, "0 buffers\n"))
    let image = ImageMetadata(width: 4, height: 2, fourcc: 0x3432_5258, stride: 16, colorSpace: "a\u{7}b")
    let lent = try rig.lend(metadata: BufferMetadata(image: image, values: ["camera": "front"]))
    let (status, text) = try run(["buffers", "list", "--control", socket])
    let lines = text.split(separator: "\n")
    #expect(status == 0 && lines.count == 3 && lines[2] == "1 buffer")
    let words = lines[1].split(separator: " ").map(String.init)
    #expect(words.prefix(5) == ["\(lent.id)", "5000", "100", "read", "lent"])
    #expect(words.last == lent.pages.dmabuf.map { "\($0.inode)" })
    let list = try object(run(["buffers", "list", "--control", socket, "--json"]).output)
    #expect((list["buffers"] as? [[String: Any]])?.map { $0["id"] as? String } == ["\(lent.id)"])

    let query = try run(["buffers", "query", "--control", socket, "\(lent.id)"])
    let facts = query.output.split(separator: "\n").map {
      $0.split(separator: " ", maxSplits: 1).map(String.init)
    }
    func fact(_ name: String) -> String? {
      facts.first { $0[0] == name }?[1].trimmingCharacters(in: .whitespaces)
    }
    #expect(query.status == 0 && fact("pages") == "2, from 100 in the first to 1004 of the last")
    #expect(fact("image") == #"4x2 XR24, stride 16, offset 0, modifier 0x0, a\u{7}b"#)
    #expect(fact("value") == "camera = front" && fact("resource") == "\(lent.place.resource) of device 1")
    let json = try object(run(["buffers", "query", "--control", socket, "\(lent.id)", "--json"]).output)
    #expect(json["items"] as? Int == 2 && (json["importers"] as? [Any])?.isEmpty == true)
  }

  @Test("an unknown buffer and no service give status 1, senseless command lines give 64")
  func troubles() throws {
    let id = "\(BufferID.random())"
    for arguments in [["query", id], ["import", id, "--hold"], ["fill", id]] {
      let (status, output) = try run(["buffers"] + arguments + ["--control", socket])
      #expect(status == 1 && output.contains("NoSuchBuffer"), "\(output)")
      let (without, why) = try run(["buffers"] + arguments + ["--control", "/nowhere/control"])
      #expect(without == 1 && why.contains("/nowhere/control"))
    }
    for arguments in [
      ["buffers", "query", "--control", socket, "0123"], ["buffers", "query", "--control", socket],
      ["buffers", "list"], ["buffers", "list", "--control", socket, "--domain", "web"],
      ["buffers", "import", "--control", socket, id],
      ["buffers", "watch", "--control", socket, "--events", "0"],
      ["dump", "--buffer", id], ["dump", "--control", socket, "--fd", "3"],
      ["dump", "--buffer", id, "--control", socket, "0:1"],
      ["dump", "--buffer", id, "--control", socket, "--guest", "1"],
      ["snapshot", "--control", socket, "--size", "1x1", "/tmp/unused.png"],
      ["snapshot", "--control", socket, "--buffer", id, "--no-cursor", "/tmp/unused.png"],
      ["list", "--control", socket, "--domain", "web"],
    ] { #expect(try run(arguments).status == 64, "\(arguments)") }
  }

  @Test("a command inherits the dma-buf and the token, and holds the buffer for as long as it runs")
  func command() throws {
    let lent = try rig.lend()
    let bytes = try write(lent)
    let file = rig.directory.appending("release")
    let script = """
      import mmap, os, sys, time
      number, token = int(sys.argv[1]), int(os.environ["UDMABRIDGE_TOKEN"])
      offset, size = int(os.environ["UDMABRIDGE_OFFSET"]), int(os.environ["UDMABRIDGE_SIZE"])
      assert os.environ["UDMABRIDGE_FD"] == sys.argv[1] and os.fstat(token)
      print(mmap.mmap(number, 16384)[offset:offset + size].hex(), flush=True)
      while not os.path.exists(sys.argv[2]): time.sleep(0.01)
      """
    let running = try start(
      [
        "buffers", "import", "--control", socket, "\(lent.id)", "--for-writing", "--", "/usr/bin/python3",
        "-c",
        script, "{}", file.string,
      ])
    try rig.waitUntil("it has the buffer") { rig.registry.statistics.imports == 1 }
    try rig.waitUntil("the tool's connection is over") { rig.server.connectionCount == 0 }
    #expect(rig.registry.statistics.imports == 1)
    _ = try FD.create(file)
    let (status, output) = try finish(running)
    #expect(status == 0 && output == bytes[100..<5100].map { hex($0) }.joined() + "\n")
    try rig.waitUntil("the import ends with it") { rig.registry.statistics.imports == 0 }
  }

  private func hex(_ byte: UInt8) -> String { String(format: "%02x", byte) }

  @Test(
    "a command gets the dma-buf under the number that it wants, and the token under another",
    arguments: 3...12)
  func numbers(_ number: Int) throws {
    let lent = try rig.lend()
    let script =
      #"[ "$UDMABRIDGE_FD" = \#(number) ] && [ "$UDMABRIDGE_TOKEN" != \#(number) ] && readlink /proc/self/fd/$UDMABRIDGE_TOKEN"#
    let (status, output) = try run(
      [
        "buffers", "import", "--control", socket, "\(lent.id)", "--as-fd", "\(number)", "--", "/bin/sh", "-c",
        script,
      ])
    #expect(status == 0 && output.hasPrefix("pipe:["), "\(output)")
  }

  @Test("import --hold ends with status 1 and the reason when the buffer was taken back")
  func hold() throws {
    let lent = try rig.lend()
    let running = try start(["buffers", "import", "--control", socket, "\(lent.id)", "--hold", "--json"])
    try rig.waitUntil("it has the buffer") { rig.registry.statistics.imports == 1 }
    try rig.takeBack(lent)
    try rig.pass(.seconds(2))
    let (status, output) = try finish(running)
    #expect(status == 1 && output.contains("buffer \(lent.id) was taken back"), "\(output)")
    #expect(output.contains(#""length" : 5000"#) && output.contains(#""offset" : 100"#))
  }

  @Test("import --send sends the facts and both descriptors to a socket")
  func send() throws {
    let lent = try rig.lend()
    let path = rig.directory.appending("listener")
    let listener = try UnixSocket.listen(path)
    let running = try start(["buffers", "import", "--control", socket, "\(lent.id)", "--send", path.string])
    #expect(try finish(running).status == 0)
    let connection = try listener.accept()
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    while !bytes.contains(0x0a),
      try connection.receive(into: &bytes, upTo: 4096, descriptors: &descriptors) > 0
    {}
    #expect(descriptors.count == 2)
    let facts = try object(String(decoding: bytes, as: UTF8.self))
    #expect(facts["buffer"] as? String == "\(lent.id)" && facts["length"] as? Int == 5000)
    #expect(rig.registry.statistics.imports == 1)
    descriptors = ReceivedDescriptors()
    try rig.waitUntil("it is let go") { rig.registry.statistics.imports == 0 }
  }

  @Test("the example in Python imports a buffer by its value, and releases it when its lender asks")
  func example() throws {
    _ = try rig.lend(metadata: BufferMetadata(values: ["name": "other"]))
    let lent = try rig.lend(metadata: BufferMetadata(values: ["name": "picture"]))
    let content = rig.directory.appending("content")
    try Data(write(lent)[100..<5100]).write(to: URL(fileURLWithPath: content.string))
    let running = try startReading(
      "/usr/bin/python3", [repository.appending("examples/import.py").string, socket, "name=picture"],
      withErrors: true)
    try rig.waitUntil("it has the buffer") { rig.registry.statistics.imports == 1 }
    try rig.takeBack(lent, patience: .seconds(3600))
    let (status, output) = try finish(running)
    let sum = try finish(startReading("/usr/bin/sha256sum", [content.string])).output.prefix(64)
    #expect(status == 0)
    #expect(output == "imported \(lent.id): 5000 bytes, sha256 \(sum)\nreleased \(lent.id)\n")
    #expect(rig.registry.statistics.imports == 0)
  }

  @Test("dump writes exactly what is lent")
  func dump() throws {
    let lent = try rig.lend()
    let bytes = try write(lent)
    let file = rig.directory.appending("dumped")
    let (status, output) = try run(
      ["dump", "--control", socket, "--buffer", "\(lent.id)", "--output", file.string])
    #expect(status == 0, "\(output)")
    #expect(try Data(contentsOf: URL(fileURLWithPath: file.string)) == Data(bytes[100..<5100]))
    try rig.waitUntil("it is let go") { rig.registry.statistics.imports == 0 }
  }

  @Test("the lender's layout and the same layout in options give the same picture")
  func image() throws {
    let image = ImageMetadata(width: 8, height: 4, fourcc: 0x3432_5258, stride: 64, offset: 12)
    let lent = try rig.lend(metadata: BufferMetadata(image: image))
    _ = try write(lent)
    let (said, options, raw) = (
      rig.directory.appending("said.png"), rig.directory.appending("options.png"),
      rig.directory.appending("raw.png")
    )
    let which = ["--control", socket, "--buffer", "\(lent.id)"]
    #expect(try run(["snapshot"] + which + [said.string]).status == 0)
    #expect(
      try run(["snapshot"] + which + ["--size", "8x4", "--stride", "64", "--offset", "12", options.string])
        .status == 0)
    #expect(try run(["dump"] + which + ["--as", "png", "--output", raw.string]).status == 0)
    func content(_ path: FilePath) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path.string)) }
    #expect(try content(said) == content(options) && content(said) == content(raw))
    // The same bytes from a file, as the tool reads any.
    let (plain, copy) = (rig.directory.appending("plain.png"), rig.directory.appending("copy"))
    #expect(try run(["dump"] + which + ["--output", copy.string]).status == 0)
    #expect(
      try run([
        "dump", "--path", copy.string, "--as", "png", "--size", "8x4", "--stride", "64", "--offset", "12",
        "--output",
        plain.string,
      ]).status == 0)
    #expect(try content(said) == content(plain))
  }

  @Test("an image layout that cannot be, or none, is refused with status 1")
  func lies() throws {
    for image in [
      ImageMetadata(width: 8, height: 4, fourcc: 0x3432_5258, stride: 64, offset: 4900),
      ImageMetadata(width: 8, height: 4, fourcc: 0x3432_5258, stride: 16),
      ImageMetadata(width: 8, height: 4, fourcc: 0, stride: 64),
      ImageMetadata(width: 65535, height: 65535, fourcc: 0x3432_5258, stride: 0xffff_ffff),
      ImageMetadata(width: 8, height: 4, fourcc: 0x3432_5258, stride: 64, offset: 1 << 40),
      ImageMetadata(width: 8, height: 4, fourcc: 0x3432_5258, stride: 64, modifier: 1),
    ] {
      let lent = try rig.lend(metadata: BufferMetadata(image: image))
      let (status, output) = try run(
        ["snapshot", "--control", socket, "--buffer", "\(lent.id)", "/tmp/unused.png"])
      #expect(status == 1 && output.hasPrefix("Error: "), "\(output)")
    }
    let without = try rig.lend()
    let (status, output) = try run(
      ["snapshot", "--control", socket, "--buffer", "\(without.id)", "/tmp/unused.png"])
    #expect(status == 1 && output.contains("--size WxH"))
  }

  @Test("list shows under which id a dma-buf is lent", .testHost)
  func listing() throws {
    let lent = try rig.lend()
    let (status, output) = try run(["list", "--control", socket, "--pid", "\(getpid())", "--json"])
    let buffers = try #require(try object(output)["buffers"] as? [[String: Any]], "\(output)")
    let known = buffers.filter { $0["lentAs"] != nil }
    #expect(status == 0 && known.map { $0["lentAs"] as? [String] } == [["\(lent.id)"]])
    #expect(known.map { $0["inode"] as? Int } == [lent.pages.dmabuf.map { Int($0.inode) }])
    let text = try run(["list", "--control", socket, "--pid", "\(getpid())"]).output
    #expect(text.split(separator: "\n").contains { $0.hasSuffix("  \(lent.id)") }, "\(text)")
    let without = try run(["list", "--pid", "\(getpid())"]).output
    #expect(!without.contains("LENT AS") && !without.contains("\(lent.id)"))
  }

  @Test(
    "fill writes a file into the lent bytes alone, and refuses a longer file",
    arguments: [0, 1, 4999, 5000, 5001])
  func fill(_ count: Int) throws {
    let lent = try rig.lend(use: .fill)
    let before = try write(lent)
    let file = rig.directory.appending("content")
    let content = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 3) }
    try Data(content).write(to: URL(fileURLWithPath: file.string))
    let feed = LendingFeed(.lender(session: rig.session))
    rig.registry.add(feed)
    let (status, output) = try run(
      ["buffers", "fill", "--control", socket, "\(lent.id)", file.string, "--timestamp", "7"])
    try rig.waitUntil("it is let go") { rig.registry.statistics.imports == 0 }
    var news: [LendingNews] = []
    while let event = feed.next() { news.append(event.news) }
    if count > 5000 {
      #expect(status == 1 && output.contains("5000 bytes"), "\(output)")
      #expect(news.contains(.fillAborted) && !news.contains(.filled))
      return
    }
    #expect(status == 0 && output == "", "\(output)")
    #expect(news.contains(.filled) && !news.contains(.fillAborted))
    let now = try map(lent).bytes(at: 0, count: 16384)
    #expect(Array(now[100..<100 + count]) == content)
    #expect(now[..<100] == before[..<100] && now[(100 + count)...] == before[(100 + count)...])
    let asker = try rig.connect()
    let filling = try asker.ask("Query", #"{"id":"\#(lent.id)"}"#, as: QueryReply.self).filling
    #expect(filling == FillingFacts(bytesUsed: count, timestamp: 7, metadata: nil))
  }

  @Test("watch prints a line for each event", arguments: [false, true])
  func watch(_ json: Bool) throws {
    let lent = try rig.lend(metadata: BufferMetadata(values: ["a": "b"]))
    let running = try start(["buffers", "watch", "--control", socket] + (json ? ["--json"] : []))
    try rig.waitUntil("it watches") { rig.registry.statistics.watchers == 1 }
    try rig.settle()
    try rig.registry.beginAccess(.write, to: lent.id, by: lent.owner)
    try rig.settle()
    rig.revoke(lent)
    try rig.settle()
    rig.interface.end()
    let (status, output) = try finish(running)
    let lines = output.split(separator: "\n").map(String.init)
    #expect(status == 0)
    if json {
      #expect(
        try lines.map { try object($0)["event"] as? String } == ["lent", "accessBegun", "revoked", "end"])
    } else {
      #expect(
        lines == [
          "lent \(lent.id)  5000 bytes, read, value a = b", "accessBegun \(lent.id)  write",
          "revoked \(lent.id)  resourceGone", "end",
        ])
    }
    // It may end by itself.
    _ = try rig.lend()
    #expect(try run(["buffers", "watch", "--control", socket, "--events", "1"]).status == 0)
  }
}
