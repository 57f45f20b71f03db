import Fixtures
import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

/// dma-bufs of the tool's, in the hands of programs that know nothing of it.
@Suite(.testHost) struct BufferTests {
  /// Sixteen bytes for each place that say which it is, in a memfd of 64 KiB, then `rest`.
  private func filled(_ rest: String) -> String {
    "udmabridge memfd --size 64K --seal shrink -- bash -c '"
      + "seq -f %015.0f 0 4095 | dd of=/proc/self/fd/{} conv=notrunc status=none; \(rest)'"
  }

  /// The text of the pages of that memfd.
  private func pages(_ numbers: Int...) -> String {
    numbers.map { page in
      (page * 256..<page * 256 + 256).map { String(format: "%015d\n", $0) }.joined()
    }.joined()
  }

  @Test(
    "a command imports the inherited dma-buf through libdrm, and finds the pages in their order")
  func command() throws {
    let (status, output) = try Tool.shell(
      filled(
        "udmabridge create --fd {} --as-fd 9 0x3000:4K 0x1000:8K --name spam -- stranger import 9 /dev/dri/card0"
      )
    )
    #expect(status == 0, "\(output)")
    let end = try #require(output.firstIndex(of: "\n"))
    #expect(output[..<end].hasPrefix("imported ") && output[..<end].hasSuffix(" 12288"))
    #expect(output[output.index(after: end)...] == pages(3, 1, 2))
  }

  @Test("a program that gets the dma-buf over a socket imports it, and gets its facts")
  func send() throws {
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let (receiver, reader) = try startReading(
      builtPrograms.appending("stranger"), ["receive", "\(directory)/socket", "/dev/dri/card0"],
      withErrors: true)
    defer { receiver.signal(SIGKILL) }
    try waitUntil("the stranger listens") { FileManager.default.fileExists(atPath: "\(directory)/socket") }
    let (status, output) = try Tool.shell(
      filled("udmabridge create --fd {} 0x2000:4K 0x5000:4K --send \(directory)/socket"))
    #expect(status == 0, "\(output)")
    let received = try reader.readToEnd()
    #expect(receiver.wait() == 0, "\(received)")
    let lines = received.split(separator: "\n", maxSplits: 2)
    let message = try #require(try JSONSerialization.jsonObject(with: Data(lines[0].utf8)) as? [String: Any])
    #expect(message["kind"] as? String == "dma-buf")
    #expect(message["size"] as? Int == 8192)
    #expect(message["items"] as? Int == 2)
    #expect(lines[1] == "imported \(message["inode"] as? Int ?? 0) 8192")
    #expect(String(lines[2]) == pages(2, 5))
  }

  @Test(
    "a held dma-buf can be read through its process, and inspect and list name the holder")
  func held() throws {
    let memfd = try Memfd.create(name: "test", size: 65536, seals: .shrink)
    let (holder, reader) = try memfd.withDescriptor { fd in
      try fd.withRaw {
        try startReading(
          Tool.program,
          ["create", "--fd", "7", "0x1000:4K", "0:4K", "--hold", "--json", "--name", "held here"],
          descriptors: [7: $0])
      }
    }
    defer { holder.signal(SIGKILL) }
    var buffer: [String: Any]?
    try waitUntil("it holds") {
      let list = try Tool.json("udmabridge list --json --pid \(holder.pid)")
      buffer = (list["buffers"] as? [[String: Any]])?.first
      return buffer != nil
    }
    #expect(buffer?["name"] as? String == "held here")
    #expect(buffer?["exporter"] as? String == "udmabuf")
    #expect(buffer?["size"] as? Int == 8192)
    let user = try #require((buffer?["users"] as? [[String: Any]])?.first)
    let number = try #require((user["descriptors"] as? [Int])?.first)

    let mapping = try memfd.withDescriptor { try Mapping($0, offset: 0, length: 65536, writable: true) }
    mapping.store(UInt64(0x1122_3344_5566_7788), at: 16)
    let (_, dumped) = try Tool.shell(
      "udmabridge dump --pid \(holder.pid) --fd \(number) --as hex | sed -n 258p")
    #expect(dumped.hasPrefix("0000001010  88 77 66 55 44 33 22 11"), "\(dumped)")

    let facts = try Tool.json("udmabridge inspect --json --pid \(holder.pid) --fd \(number)")
    #expect(facts["kind"] as? String == "dma-buf")
    #expect(facts["inode"] as? Int == buffer?["inode"] as? Int)
    #expect(facts["name"] as? String == "held here")
    let users = try #require(facts["users"] as? [[String: Any]])
    #expect(users.count == 1 && users[0]["pid"] as? Int32 == holder.pid)

    // It has no path, and that is said with what to do instead.
    let (status, output) = try Tool.shell("udmabridge inspect --path /proc/\(holder.pid)/fd/\(number)")
    #expect(status == 1)
    #expect(output.contains("--pid \(holder.pid) --fd \(number)"), "\(output)")

    // From then on a signal ends it as it should.
    #expect(try reader.readLine() == "{")
    holder.signal(SIGINT)
    #expect(holder.wait() == 0)
    #expect(try reader.readToEnd().contains("\"fd\" : \(number)"))
    let after = try Tool.json("udmabridge list --json --pid \(holder.pid)")
    #expect((after["buffers"] as? [Any])?.isEmpty == true)
  }

  @Test("ranges that somebody keeps up are held until standard input is closed, which is status 1")
  func kept() throws {
    let memfd = try Memfd.create(name: "test", size: 65536, seals: .shrink)
    try UnixSocket.pair { mine, theirs in
      let input = theirs.fd.withRaw { $0 }
      let (holder, reader) = try memfd.withDescriptor { fd in
        try fd.withRaw {
          try startReading(
            Tool.program, ["create", "--fd", "7", "-", "--hold"], withErrors: true,
            descriptors: [0: input, 7: $0])
        }
      }
      defer { holder.signal(SIGKILL) }
      try mine.fd.write(unsafe Array("0x1000:4K\n0x4000\nend\n".utf8).span.bytes)
      #expect(try reader.readLine()?.hasPrefix("held as --pid \(holder.pid) ") == true)
      #expect(holder.poll() == nil)
      mine.shutDown()
      #expect(holder.wait() == 1)
      #expect(try reader.readToEnd().contains("standard input was closed"))
    }
  }

  @Test("list finds every dma-buf that a program holds, in its child too, by descriptor and by mapping")
  func list() throws {
    let count = 20
    // Its standard input is a pipe that is open for as long as the shell waits.
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let (shell, _) = try startReading(
      "/bin/bash", ["-c", "sleep 600 | { \(builtPrograms)/stranger hold \(count) >\(directory)/out; }"],
      withErrors: true)
    defer {
      _ = try? Tool.shell("pkill -P $(pgrep -P \(shell.pid) -d,) 2>/dev/null; pkill -P \(shell.pid)")
      shell.signal(SIGKILL)
      shell.wait()
    }
    var numbers: [UInt64] = []
    try waitUntil("the stranger holds them") {
      numbers = ((try? readText(directory.appending("out"))) ?? "").split(whereSeparator: \.isWhitespace)
        .compactMap { UInt64($0) }
      return numbers.count == count + 1
    }
    let (child, inodes) = (Int32(numbers[0]), Array(numbers.dropFirst()))
    let list = try Tool.json("udmabridge list --json --pid \(child) --sort inode")
    let buffers = try #require(list["buffers"] as? [[String: Any]])
    #expect(Set(buffers.compactMap { $0["inode"] as? UInt64 }) == Set(inodes))
    for (index, inode) in inodes.enumerated() {
      let buffer = try #require(buffers.first { $0["inode"] as? UInt64 == inode })
      #expect(buffer["size"] as? UInt64 == systemPageSize * UInt64(index + 1))
      #expect(buffer["exporter"] as? String == "udmabuf")
      let users = try #require(buffer["users"] as? [[String: Any]])
      #expect(users.count == 2)
      let own = try #require(users.first { $0["pid"] as? Int32 == child })
      let parent = try #require(users.first { $0["pid"] as? Int32 != child })
      #expect(parent["program"] as? String == "stranger")
      #expect((parent["descriptors"] as? [Int])?.count == 1)
      // Every second one is only mapped in the child.
      #expect((own["descriptors"] as? [Int])?.count == (index % 2 == 0 ? 1 : 0))
      #expect(own["mappings"] as? Int == index % 2)
      // The kernel's own list agrees on those.
      #expect(buffer["references"] as? Int ?? 0 >= 1)
    }
    // Filters and orders.
    let large = try Tool.json(
      "udmabridge list --json --pid \(child) --min-size 40K --sort size --exporter udmabuf")
    let sizes = try #require(large["buffers"] as? [[String: Any]]).compactMap { $0["size"] as? Int }
    #expect(sizes == (10...20).reversed().map { $0 * Int(systemPageSize) })
    let none = try Tool.json("udmabridge list --json --pid \(child) --exporter zork")
    #expect((none["buffers"] as? [Any])?.isEmpty == true)
  }

  @Test("list --watch prints a line for each change, and none without one")
  func watch() throws {
    let (watcher, reader) = try startReading(
      Tool.program, ["list", "--watch", "0.05", "--json", "--name", "watched"], withErrors: true)
    defer { watcher.signal(SIGKILL) }
    var lines: [String] = []
    /// Reads on until so many buffers are told of.
    func expect(_ count: Int) throws {
      while true {
        let line = try #require(try reader.readLine(), "\(lines)")
        lines.append(line)
        let list = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
        if (list?["buffers"] as? [Any])?.count == count { return }
      }
    }
    try expect(0)
    let memfd = try Memfd.create(name: "test", size: 65536, seals: .shrink)
    let (holder, held) = try memfd.withDescriptor { fd in
      try fd.withRaw {
        try startReading(
          Tool.program, ["create", "--fd", "7", "--hold", "--name", "a watched one"], descriptors: [7: $0])
      }
    }
    try expect(1)
    // From then on a signal ends it as it should.
    #expect(try held.readLine()?.hasPrefix("held as ") == true)
    holder.signal(SIGINT)
    #expect(holder.wait() == 0)
    try expect(0)
    watcher.signal(SIGINT)
    #expect(watcher.wait() == 0)
    #expect(try reader.readToEnd() == "")
    #expect(zip(lines, lines.dropFirst()).allSatisfy { $0 != $1 }, "only changes are told")
  }

  @Test("a list beyond the kernel's limit is refused with the remedy")
  func limit() throws {
    try TestHost.withUdmabufLimits {
      let (status, output) = try Tool.shell(
        "seq -f %.0f 0 8192 16777215 | udmabridge memfd --size 16M -- udmabridge create --fd {} - --hold")
      #expect(status == 1)
      #expect(
        output.contains("2048 items") && output.contains("list_limit 1024") && output.contains("echo 2048 >"),
        "\(output)")
    }
  }

  @Test("a dma-buf is refused as memory for another one, whole or in part")
  func twice() throws {
    for (rest, words) in [
      ("--hold", "is a dma-buf already"), ("0:4K --hold", "which is taken as a whole"),
    ] {
      let line =
        "udmabridge memfd --size 64K -- udmabridge create --fd {} --as-fd 9 -- udmabridge create --fd 9 \(rest)"
      let (second, text) = try Tool.shell(line)
      #expect(second == 1)
      #expect(text.contains(words), "\(text)")
    }
  }
}
