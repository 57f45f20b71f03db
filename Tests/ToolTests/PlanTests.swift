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
    "page lists and what becomes of them",
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
    "memory that the guest does not have",
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

  @Test("the hole is told with its bounds")
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

  @Test("a terabyte of RAM depends on the processor")
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

  @Test("ranges that have more bytes together than can be counted", arguments: ["plan", "create"])
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

  @Test("layouts that are none are told with their line")
  func malformed() throws {
    for line in ["0:4K", "0 mem", "0:4K mem zork", "0:0 mem", "4K mem 0", "0:4K mem 0 unsealed extra"] {
      let (status, output) = try Tool.shell("udmabridge plan --layout <(echo; echo '\(line)') 0")
      #expect(status == 1)
      #expect(output.contains("line 2: «\(line)»"), "\(output)")
    }
  }
}
