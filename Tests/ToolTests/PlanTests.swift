import Foundation
import SystemPackage
import TestSupport
import Testing

/// `udmabridge plan`, which needs neither a guest nor a device.
@Suite struct PlanTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let name, options: String
    var items: [String] = []
    var result = "lent"
    /// The least limits: list_limit and size_limit_mb.
    var needs = [1, 1]
    var testDescription: String { name }
  }

  static let limits = "--list-limit 4 --size-limit-mb 8"

  @Test(
    "plan joins a page list, and says what becomes of it and which limits it needs",
    arguments: [
      Case(
        name: "neighbours are one item", options: "--machine q35 --memory 1G 0x1000:4K 0x2000:8K",
        items: ["ram+4096:12288"]),
      Case(
        name: "the order of the list is kept", options: "--machine q35 --memory 1G 0x2000:4K 0x1000:4K",
        items: ["ram+8192:4096", "ram+4096:4096"], needs: [2, 1]),
      // The last page below the hole and the first at 4 GiB are neighbours in the memfd.
      Case(
        name: "across the hole", options: "--machine q35 --memory 3G 0x7ffff000:4K 0x100000000:4K",
        items: ["ram+2147479552:8192"]),
      Case(
        name: "pc splits at 3 GiB", options: "--machine pc --memory 4G 0xbffff000:4K 0x100000000:4K",
        items: ["ram+3221221376:8192"]),
      Case(
        name: "too many items", options: "--machine q35 --memory 1G 0 0x2000 0x4000 0x6000 0x8000",
        items: ["ram+0:4096", "ram+8192:4096", "ram+16384:4096", "ram+24576:4096", "ram+32768:4096"],
        result: "listLimit", needs: [5, 1]),
      Case(
        name: "too many bytes", options: "--machine q35 --memory 1G 1M:9M", items: ["ram+1048576:9437184"],
        result: "sizeLimit", needs: [1, 9]),
      Case(
        name: "an entry that is no whole page", options: "--machine q35 --memory 1G 0x1000:4K 0x2001:4095",
        items: ["ram+4096:4096", "ram+8193:4095"], result: "unalignedEntry", needs: [2, 1]),
      Case(
        name: "an image, and pages behind it", options: "--machine q35 --memory 1G --size 32x32 1M:8K 2M:8K",
        items: ["ram+1048576:4096"]),
      Case(
        name: "too few pages for the image", options: "--machine q35 --memory 1G --size 64x64 1M:8K",
        items: ["ram+1048576:8192"], result: "shortBacking"),
      Case(
        name: "exactly the image's bytes", options: "--machine q35 --memory 1G --size 50x41 1M:8200",
        items: ["ram+1048576:12288"]),
      Case(
        name: "a page less than the image has", options: "--machine q35 --memory 1G --size 50x41 1M:8K",
        items: ["ram+1048576:8192"], result: "shortBacking"),
      Case(
        name: "two memories", options: "--layout LAYOUT 0x3000:8K",
        items: ["one+12288:4096", "two+4096:4096"],
        needs: [2, 1]),
      Case(
        name: "memory that is not sealed", options: "--layout LAYOUT 0x10000:4K", items: ["three+0:4096"],
        result: "notSealedMemfd"),
      Case(
        name: "one memory in pieces, joined", options: "--layout LAYOUT 0x20000:8K", items: ["one+16384:8192"]
      ),
    ])
  func plan(_ sample: Case) throws {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let layout = directory.appending("layout").string
    try """
    # address:length memory offset
    0:16K one
    0x4000:8K two 4K   # behind it
    0x10000:4K three unsealed
    0x20000:4K one 0x4000
    0x21000:4K one 0x5000
    """.write(toFile: layout, atomically: false, encoding: .utf8)
    let facts = try Tool.json(
      "udmabridge plan --json --items \(Self.limits) \(sample.options.replacing("LAYOUT", with: layout))")
    let items = (facts["items"] as? [[String: Any]] ?? []).map {
      "\($0["memory"]!)+\($0["offset"]!):\($0["length"]!)"
    }
    #expect(items == sample.items)
    #expect(facts["itemCount"] as? Int == sample.items.count)
    #expect(facts["backing"] as? String == (sample.result == "lent" ? "lent" : "shadow"))
    #expect(facts["cause"] as? String ?? "lent" == sample.result)
    #expect((facts["reason"] == nil) == (sample.result == "lent"))
    let needs = try #require(facts["neededLimits"] as? [String: Int])
    #expect([needs["listLimit"], needs["sizeLimitMb"]] == sample.needs)
    #expect(facts["limits"] as? [String: Int] == ["listLimit": 4, "sizeLimitMb": 8])
  }

  struct Failure: Sendable, CustomTestStringConvertible {
    let options: String
    let words: [String]
    var testDescription: String { options }
  }

  @Test(
    "memory that the guest does not have is refused by entry and address",
    arguments: [
      Failure(
        options: "0x40000000",
        words: ["0x40000000:0x1000 (1 of 1)", "past the end of the guest's memory at 0x40000000"]),
      Failure(options: "0 0x3ffff000:8K", words: ["(2 of 2)", "0x40000000 is past"]),
      Failure(options: "0xfffffffffffff000:8K", words: ["exceeds the address space"]),
      Failure(options: "0x1000:0", words: ["entry 0 is empty"]),
    ])
  func absent(_ failure: Failure) throws {
    let (status, output) = try Tool.shell("udmabridge plan --machine q35 --memory 1G \(failure.options)")
    #expect(status == 1)
    for word in failure.words { #expect(output.contains(word), "\(output)") }
  }

  @Test("an address in the hole is refused with the hole's bounds")
  func hole() throws {
    let (_, output) = try Tool.shell("udmabridge plan --machine q35 --memory 3G 0x7ffff000:8K")
    #expect(output.contains("0x80000000 is in the hole from 0x80000000 to 0x100000000"), "\(output)")
  }

  @Test("the VGA window is no memory", arguments: ["q35", "pc"])
  func window(_ machine: String) throws {
    for range in ["0xa0000", "0xbffff:1", "0x9f000:8K"] {
      let (status, output) = try Tool.shell("udmabridge plan --machine \(machine) --memory 2G \(range)")
      #expect(status == 1 && output.contains("is in the hole from 0xa0000 to 0xc0000"), "\(output)")
    }
    let facts = try Tool.json(
      "udmabridge plan --json --items --machine \(machine) --memory 2G 0x9f000 0xc0000")
    let items = facts["items"] as? [[String: Any]]
    #expect(items?.map { $0["offset"] as? Int } == [0x9f000, 0xc0000])
  }

  @Test("where a terabyte of RAM lies depends on the processor's make")
  func processor() throws {
    let line = "udmabridge plan --json --items --machine q35 --memory 1100G"
    // Behind 2 GiB of low RAM.
    let first = 2 << 30
    for (options, offset) in [
      ("0xfd00000000", 0xfd_0000_0000 - (4 << 30) + first), ("--amd 0x10000000000", first),
    ] {
      let facts = try Tool.json("\(line) \(options)")
      #expect((facts["items"] as? [[String: Any]])?.first?["offset"] as? Int == offset)
      #expect((facts["note"] as? String)?.contains("AMD") == (options.hasPrefix("--amd") ? nil : true))
    }
    let (status, output) = try Tool.shell("udmabridge plan --machine q35 --memory 1100G --amd 0xfd00000000")
    #expect(status == 1 && output.contains("is in the hole from 0x80000000 to 0x10000000000"), "\(output)")
    #expect(try Tool.json("\(line.replacing("1100G", with: "64G")) 4G")["note"] == nil)
  }

  @Test("lists from standard input and from a file are one list")
  func lists() throws {
    let facts = try Tool.json(
      "echo '0x1000 0x2000' >/tmp/udmabridge-$$; echo 0x4000:4K | udmabridge plan --json --machine q35 --memory 1G @/tmp/udmabridge-$$ 0x3000 -; rm /tmp/udmabridge-$$"
    )
    #expect(facts["entries"] as? Int == 4)
    #expect(facts["itemCount"] as? Int == 1)
    #expect(facts["size"] as? Int == 16384)
  }

  @Test("a list that is read in pieces is joined, cut and completed as a whole")
  func pieces() throws {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    // 8 MiB less a page, of which the tool reads 256 KiB of text at once.
    let pages = (257..<2304).map { "0x\(String($0 << 12, radix: 16)):4K" }
    let padding = String(repeating: " ", count: 256)
    func plan(_ list: [String], _ options: String = "") throws -> String {
      try list.joined(separator: padding).write(
        toFile: "\(directory)/list", atomically: false, encoding: .utf8)
      return "udmabridge plan --json --items --machine q35 --memory 1G \(options) @\(directory)/list"
    }
    func lengths(_ line: String) throws -> [Int?] {
      (try Tool.json(line)["items"] as? [[String: Any]] ?? []).map { $0["length"] as? Int }
    }
    #expect(try lengths(plan(pages)) == [2047 << 12])
    #expect(try lengths(plan(pages.reversed())) == Array(repeating: 4096, count: 2047))
    // The last page of an image is completed, and no image gets more.
    let image = pages[..<2041] + ["0x8fa000:3000"]
    #expect(try lengths(plan(Array(image), "--size 1000x2090")) == [2042 << 12])
    #expect(try lengths(plan(pages, "--size 1024x1024")) == [1024 << 12])
    let (status, output) = try Tool.shell(plan(pages + ["4G"] + pages))
    #expect(status == 1 && output.contains("0x100000000:0x1000 (2048 of 4095)"), "\(output)")
    let empty = try Tool.shell(plan(pages + ["0:0"] + pages))
    #expect(empty.status == 1 && empty.output.contains("entry 2047 is empty"), "\(empty)")
  }

  @Test("ranges with more bytes together than can be counted are refused", arguments: ["plan", "create"])
  func tooManyBytes(_ command: String) throws {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    // 2^64 bytes, and a page less.
    let most = String(repeating: "4G:64T\n", count: (1 << 18) - 1)
    for (rest, isTooMuch) in [("4G:64T", true), ("4G:67108860M 4G:4092K", false)] {
      try (most + rest).write(toFile: "\(directory)/list", atomically: false, encoding: .utf8)
      let line =
        command == "plan"
        ? "udmabridge plan --machine q35 --memory 65T @\(directory)/list"
        : "udmabridge memfd --size 65T -- udmabridge create --fd {} --hold @\(directory)/list"
      let (status, output) = try Tool.shell(line)
      #expect(output.contains("more than 18446744073709551615 bytes together") == isTooMuch, "\(output)")
      // Lists that long are made into no dma-buf.
      #expect(status == (isTooMuch || command == "create" ? 1 : 0), "\(output)")
    }
  }

  /// A guest of 1 GiB with a picture of 8 pages that are in 8 places.
  private static let trace = """
    udmabridge-trace 1
    memory 2
    0x0:0x40000000 memfd-7 0x0
    0x50000000:0x1000 memfd-8 0x0 unsealed
    start 0
    image 0/1 64x128 XR24
    attach 0/1 8
    \((0..<8).map { "\(0x10000 - $0 * 0x2000):0x1000" }.joined(separator: "\n"))
    scanout 0 0/1 64x128+0+0
    scanout 1 0/1 64x64+0+0
    flush 0/1 64x128+0+0
    blob 0/2 4096
    attach 0/2 1
    0x50000000:0x1000
    flush 0/2 1x1+0+0
    lend 0 0/1 0 4096
    lend 1 0/2 0 4096
    return 1
    detach 0/1
    attach 0/1 1
    0x100000:0x8000
    flush 0/1 64x128+0+0
    off 0 1
    flush 0/1 64x128+0+0
    host-blob 1/1 4096
    start 0
    image 0/1 16x64 XR24
    attach 0/1 1
    0x40000000:0x1000
    end stopped

    """

  /// - Parameter extra: lines before the last one.
  private func plan(
    _ options: String, extra: String = "", trace: String = trace
  ) throws -> (status: Int32, output: String) {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let path = directory.appending("trace").string
    try trace.replacing("end stopped\n", with: extra + "end stopped\n").write(
      toFile: path, atomically: false, encoding: .utf8)
    return try Tool.shell("udmabridge plan --trace \(path) \(options)")
  }

  @Test("a trace is planned list by list, for limits and memory of any host")
  func trace() throws {
    struct Facts: Decodable, Equatable {
      struct Count: Decodable, Equatable { let lent, shadow, other: Int }
      struct Limits: Decodable, Equatable { let listLimit, sizeLimitMb: Int }
      struct Cause: Decodable, Equatable { let cause: String, lists, line: Int }
      struct List: Decodable, Equatable {
        let line, entries: Int
        let itemCount: Int?
        let result: String
      }
      let lines: Int
      let end: String
      let pageLists, flushes, lends: Count
      let neededLimits: Limits
      let mostLent, mostLentBytes: Int
      let causes: [Cause]
      let lists: [List]?
    }
    func facts(_ options: String) throws -> Facts {
      let (status, output) = try plan("--json \(options)")
      guard status == 0 else { throw TroubleInTest(output) }
      return try JSONDecoder().decode(Facts.self, from: Data(output.utf8))
    }
    func list(_ line: Int, _ entries: Int, _ items: Int?, _ result: String) -> Facts.List {
      Facts.List(line: line, entries: entries, itemCount: items, result: result)
    }
    let count = Self.trace.split(separator: "\n").count
    #expect(
      try facts("--list-limit 8 --size-limit-mb 1 --items")
        == Facts(
          lines: count, end: "stopped", pageLists: .init(lent: 2, shadow: 1, other: 1),
          flushes: .init(lent: 5, shadow: 0, other: 0), lends: .init(lent: 1, shadow: 1, other: 0),
          neededLimits: .init(listLimit: 8, sizeLimitMb: 1), mostLent: 1, mostLentBytes: 0x8000,
          causes: [
            .init(cause: "notSealedMemfd", lists: 1, line: 20), .init(cause: "refused", lists: 1, line: 35),
          ],
          lists: [
            list(7, 8, 8, "lent"), list(20, 1, 1, "shadow"), list(27, 1, 1, "lent"),
            list(35, 1, nil, "refused"),
          ]))
    // On a host with a lower limit.
    let low = try facts("--list-limit 7 --size-limit-mb 1")
    #expect(low.pageLists == .init(lent: 1, shadow: 2, other: 1) && low.lists == nil)
    #expect(low.flushes == .init(lent: 3, shadow: 2, other: 0))
    #expect(low.causes.first == .init(cause: "listLimit", lists: 1, line: 7))
    // With more memory.
    let other = try facts("--machine q35 --memory 2G --list-limit 8 --size-limit-mb 1")
    #expect(other.pageLists == .init(lent: 4, shadow: 0, other: 0) && other.causes == [])
    let (status, text) = try plan("--list-limit 7")
    #expect(status == 0 && text.contains("lists    1 lent, 2 shadow, 1 refused"), "\(text)")
    #expect(text.contains("cause    listLimit: 1 list, the first in line 7: "), "\(text)")
  }

  @Test(
    "a wrong line of a trace is refused by its number, with the reason",
    arguments: [
      ("image 0/1 1x1 XR24", "there is a resource 0/1 already"), ("detach 0/9", "there is no resource 0/9"),
      ("destroy 1/2", "there is no resource 1/2"), ("flush 0/9 1x1+0+0", "there is no resource 0/9"),
      ("scanout 0 2/1 1x1+0+0", "there is no resource 2/1"),
      ("attach 0/9 1\n0:4K", "there is no resource 0/9"),
      ("attach 1/1 1\n0:4K", "memory of the host"), ("lend 0 0/1 0 1", "buffer 0 is lent already"),
      ("lend 5 0/9 0 1", "there is no resource 0/9"), ("return 5", "there is no lent buffer 5"),
      ("memory 2\n0:8K a\n4K:4K b", "overlap"),
      ("memory 1\n0:4K a 0x7fffffffffffe000", "no memory of a guest"),
      ("nonsense", "«nonsense»"),
    ])
  func badTrace(_ lines: String, _ words: String) throws {
    let line = Self.trace.split(separator: "\n").count
    let (status, output) = try plan("", extra: lines + "\n")
    #expect(status == 1 && output.contains("/trace, line \(line): "), "\(output)")
    #expect(output.contains(words), "\(output)")
  }

  @Test("a trace without memory wants one, and options that contradict a trace are refused")
  func traceOptions() throws {
    let trace = "udmabridge-trace 1\nblob 0/1 4K\nattach 0/1 1\n0:4K\nend stopped\n"
    let (status, output) = try plan("", trace: trace)
    #expect(status == 1 && output.contains("line 3: ") && output.contains("--layout"), "\(output)")
    #expect(try plan("--machine q35 --memory 1G", trace: trace).output.contains("lists    1 lent"))
    for options in ["0:4K", "--size 64x48", "--machine q35"] { #expect(try plan(options).status == 64) }
    #expect(try Tool.shell("udmabridge plan --machine q35 --memory 1G").status == 64)
    #expect(try Tool.shell("udmabridge plan --trace /nowhere").output.contains("/nowhere cannot be read"))
  }

  @Test("a wrong line of a layout is refused by its number")
  func malformed() throws {
    for line in ["0:4K", "0 mem", "0:4K mem zork", "0:0 mem", "4K mem 0", "0:4K mem 0 unsealed extra"] {
      let (status, output) = try Tool.shell("udmabridge plan --layout <(echo; echo '\(line)') 0")
      #expect(status == 1)
      #expect(output.contains("line 2: «\(line)»"), "\(output)")
    }
  }
}
