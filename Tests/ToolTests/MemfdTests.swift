import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

/// Commands that make and look at memfds, which every kernel has.
@Suite struct MemfdTests {
  struct Sealed: Sendable, CustomTestStringConvertible {
    let options: String
    let seals: [String]
    /// Part of the reason why udmabuf cannot use it.
    var reason: String?
    var testDescription: String { options }
  }

  @Test(
    "a memfd has the seals that were asked for, and inspect says what udmabuf thinks of them",
    arguments: [
      Sealed(options: "", seals: ["seal", "shrink", "grow"]),
      Sealed(options: "--seal shrink", seals: ["shrink"]),
      Sealed(options: "--seal none", seals: [], reason: "F_SEAL_SHRINK is missing: its owner can add it"),
      Sealed(options: "--seal seal,grow", seals: ["seal", "grow"], reason: "F_SEAL_SEAL forbids adding it"),
      Sealed(
        options: "--seal shrink,write", seals: ["shrink", "write"], reason: "takes no memfd with F_SEAL_WRITE"
      ),
      Sealed(
        options: "--seal shrink,future-write", seals: ["shrink", "future-write"],
        reason: "F_SEAL_FUTURE_WRITE"),
    ])
  func seals(_ sealed: Sealed) throws {
    let facts = try Tool.json(
      "udmabridge memfd --size 64K --name spam \(sealed.options) -- udmabridge inspect --json --fd {}")
    #expect(facts["kind"] as? String == "memfd")
    #expect(facts["target"] as? String == "/memfd:spam (deleted)")
    #expect(facts["size"] as? Int == 65536)
    #expect(facts["pageSize"] as? UInt64 == systemPageSize)
    #expect(facts["isHuge"] as? Bool == false)
    #expect(facts["seals"] as? [String] == sealed.seals)
    #expect(facts["usable"] as? Bool == (sealed.reason == nil))
    if let reason = sealed.reason { #expect((facts["reason"] as? String)?.contains(reason) == true) }
    // The seals are the kernel's, not only words.
    let (status, _) = try Tool.shell(
      "udmabridge memfd --size 64K \(sealed.options) -- truncate -s 0 /proc/self/fd/{}")
    #expect((status != 0) == (sealed.seals.contains("shrink") || sealed.seals.contains("write")))
  }

  @Test(
    "a memfd of huge pages has pages of 2 MiB, and udmabuf can use it",
    .enabled(
      if: !directoryEntries("/sys/kernel/mm/hugepages/hugepages-2048kB").isEmpty, "no huge pages of 2 MiB"))
  func huge() throws {
    let facts = try Tool.json("udmabridge memfd --size 4M --huge 2M -- udmabridge inspect --json --fd {}")
    #expect(facts["pageSize"] as? Int == 2 << 20)
    #expect(facts["isHuge"] as? Bool == true)
    #expect(facts["usable"] as? Bool == true)
  }

  struct Thing: Sendable, CustomTestStringConvertible {
    let path, kind, reason: String
    var testDescription: String { path }
  }

  @Test(
    "inspect says why a file that is no memfd cannot be used",
    arguments: [
      Thing(path: "/dev/null", kind: "other", reason: "not a memfd"),
      Thing(path: "/etc/passwd", kind: "other", reason: "not a memfd"),
      Thing(
        path: "/dev/shm/udmabridge-test-\(getpid())", kind: "file in memory",
        reason: "cannot have F_SEAL_SHRINK"),
    ])
  func others(_ thing: Thing) throws {
    let made = thing.path.hasPrefix("/dev/shm")
    if made { _ = FileManager.default.createFile(atPath: thing.path, contents: Data(count: 65536)) }
    defer { if made { try? FileManager.default.removeItem(atPath: thing.path) } }
    let facts = try Tool.json("udmabridge inspect --json --path \(thing.path)")
    #expect(facts["kind"] as? String == thing.kind)
    #expect(facts["usable"] as? Bool == false)
    #expect((facts["reason"] as? String)?.contains(thing.reason) == true)
  }

  @Test(
    "the command gets the descriptor by number, by variable and in its arguments; its status is the tool's")
  func command() throws {
    let line =
      "udmabridge memfd --size 4K --as-fd 7 -- sh -c 'readlink /proc/self/fd/7; echo $UDMABRIDGE_FD {} \"$@\"; exit 5' x -- --json {}"
    let (status, output) = try Tool.shell(line)
    #expect(status == 5)
    #expect(output == "/memfd:udmabridge (deleted)\n7 7 -- --json 7\n")
  }

  @Test("the command inherits one descriptor more than without the tool")
  func onlyOne() throws {
    let (_, without) = try Tool.shell("ls /proc/self/fd")
    let (_, with) = try Tool.shell("udmabridge memfd --size 4K -- ls /proc/self/fd")
    #expect(with.split(separator: "\n").count == without.split(separator: "\n").count + 1)
  }

  struct Failure: Sendable, CustomTestStringConvertible {
    let line: String
    let status: Int32
    let words: [String]
    var testDescription: String { line }
    init(_ line: String, _ status: Int32, _ words: String...) {
      (self.line, self.status, self.words) = (line, status, words)
    }
  }

  @Test(
    "each mistake has its status, and a message with the value or the remedy",
    arguments: [
      Failure("udmabridge memfd --size 4K -- /no/such/program", 127, "/no/such/program cannot be executed"),
      Failure("udmabridge memfd --size 4K -- /etc", 126, "/etc cannot be executed"),
      Failure("udmabridge memfd --size 3 --hold", 64, "--size 3", "page size 4K"),
      Failure("udmabridge memfd --size 6M --huge 3M --hold", 64, "--huge 3M", "power of two"),
      Failure(
        "udmabridge memfd --size 4M --huge 4M --hold", 1, "no huge pages of that size",
        "/sys/kernel/mm/hugepages"),
      Failure("udmabridge memfd --size 4K", 64, "one of -- COMMAND, --send SOCKET and --hold"),
      Failure(
        "udmabridge memfd --size 4K --hold --send x", 64, "one of -- COMMAND, --send SOCKET and --hold"),
      Failure("udmabridge memfd --size 4K --as-fd 2 -- true", 64, "--as-fd 2 is too small"),
      Failure(
        "udmabridge memfd --size 4K --send /no/such/socket", 1, "/no/such/socket", "there is no such socket"),
      Failure("udmabridge memfd --size 4K --seal shrink,zork --hold", 64, "shrink,zork"),
      Failure("udmabridge create --hold 0:4K", 64, "say which memory"),
      Failure("udmabridge create --fd 99 --hold", 1, "descriptor 99 is not open here"),
      Failure("udmabridge create --pid 99999999 --fd 3 --hold", 1, "there is no process 99999999"),
      Failure("udmabridge create --pid $$ --fd 77 --hold", 1, "has no descriptor 77", "/proc/"),
      Failure("udmabridge create --path /no/file --hold", 1, "/no/file"),
      Failure("udmabridge create --guest $$ --hold", 64, "which ranges"),
      Failure("udmabridge create --guest $$ 0:4K --hold", 1, "cannot be proven", "-machine", "--qmp SOCKET"),
      Failure("udmabridge ram --qmp /no/monitor", 1, "/no/monitor", "-qmp unix:"),
      Failure("udmabridge inspect", 64, "which descriptor"),
      Failure("udmabridge plan --machine q35 0:4K", 64, "--machine and --memory belong together"),
      Failure("udmabridge dump --path /etc/passwd --as png", 64, "--size WxH"),
      Failure("udmabridge show --path /etc/passwd", 64, "--size WxH"),
      Failure("udmabridge zork", 64, "zork"),
    ])
  func failures(_ failure: Failure) throws {
    let (status, output) = try Tool.shell(failure.line)
    #expect(status == failure.status)
    for word in failure.words { #expect(output.contains(word), "\(output)") }
  }

  @Test(
    "wrong ranges and lists are refused by name before any device is asked",
    arguments: [
      Failure("0:4095", 1, "0x0:0xfff", "no multiple of the page size 4096"),
      Failure("1:4K", 1, "0x1:0x1000", "does not begin at a multiple of the page size 4096"),
      Failure("0:4K 60K:8K", 1, "0xf000:0x2000 (2 of 2)", "past the end 0x10000"),
      Failure("0xfffffffffffff000:4K", 1, "past the end"), Failure("0:0", 1, "is empty"),
      Failure("@/dev/null", 1, "/dev/null names no range"),
      Failure("@/no/list", 1, "the list /no/list cannot be read"),
    ])
  func ranges(_ failure: Failure) throws {
    let (status, output) = try Tool.shell(
      "udmabridge memfd --size 64K -- udmabridge create --fd {} \(failure.line) --hold")
    #expect(status == failure.status)
    for word in failure.words { #expect(output.contains(word), "\(output)") }
  }

  @Test("a memfd that udmabuf would not take is refused with the reason")
  func unsealed() throws {
    let (status, output) = try Tool.shell(
      "udmabridge memfd --size 64K --seal none -- udmabridge create --fd {} --hold")
    #expect(status == 1)
    #expect(output.contains("without F_SEAL_SHRINK"))
  }

  @Test("create gives a command a dma-buf, or says that there is no /dev/udmabuf")
  func device() throws {
    let (status, output) = try Tool.shell(
      "udmabridge memfd --size 64K -- udmabridge create --fd {} 0:4K 32K:8K -- true")
    if FileManager.default.fileExists(atPath: "/dev/udmabuf") {
      #expect(status == 0, "\(output)")
    } else {
      #expect(status == 1)
      #expect(output.contains("there is no /dev/udmabuf") && output.contains("CONFIG_UDMABUF"), "\(output)")
    }
  }

  @Test("a held memfd can be had through its process, by path and by pidfd, until a signal ends it")
  func held() throws {
    let (child, reader) = try startReading(Tool.program, ["memfd", "--size", "64K", "--hold", "--json"])
    defer { child.signal(SIGKILL) }
    var number: CInt = -1
    try waitUntil("it holds") {
      number = (try? RunningProcess(child.pid).openFiles().first(where: \.isMemfd)?.number) ?? -1
      return number >= 0
    }
    let byPath = try Tool.json("udmabridge inspect --json --path /proc/\(child.pid)/fd/\(number)")
    let byPID = try Tool.json("udmabridge inspect --json --pid \(child.pid) --fd \(number)")
    // From then on a signal ends it as it should.
    let first = try #require(try reader.readLine())
    child.signal(SIGTERM)
    #expect(child.wait() == 0)
    let text = try first + reader.readToEnd()
    let facts = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    #expect(facts["pid"] as? Int32 == child.pid)
    #expect(facts["fd"] as? CInt == number)
    for seen in [byPath, byPID] { #expect(seen["inode"] as? Int == facts["inode"] as? Int) }
  }

  @Test("dump gives the bytes of the ranges, in their order")
  func dump() throws {
    // Each 16 bytes say where they are.
    let write = "seq -f %015.0f 0 4095 | dd of=/proc/self/fd/{} conv=notrunc status=none"
    let line =
      "udmabridge memfd --size 64K --seal shrink -- sh -c '\(write); udmabridge dump --fd {} 0x20:32 0x1000:16 0:16'"
    let (status, output) = try Tool.shell(line)
    #expect(status == 0)
    #expect(output == "000000000000002\n000000000000003\n000000000000256\n000000000000000\n")
    let hex = try Tool.shell(
      line.replacing("dump", with: "dump --as hex").replacing(" 0x1000:16 0:16", with: ""))
    #expect(
      hex.output == """
        0000000000  30 30 30 30 30 30 30 30 30 30 30 30 30 30 32 0a  000000000000002.
        0000000010  30 30 30 30 30 30 30 30 30 30 30 30 30 30 33 0a  000000000000003.

        """)
  }

  @Test("an image is written as PNG with the colours of its format", arguments: ["XR24", "AB24", "BX24"])
  func png(_ format: String) throws {
    // 3x2 pixels, their rows 16 bytes apart: what each byte is in a pixel of the format.
    let pixels: [[[UInt8]]] = [
      [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]],
      [[13, 14, 15, 16], [17, 18, 19, 20], [21, 22, 23, 24]],
    ]
    let bytes: [UInt8] = pixels.flatMap { row in row.joined() + [99, 99, 99, 99] }
    let escaped = bytes.map { "\\" + String($0, radix: 8) }.joined()
    let directory = try makeTemporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: directory.string) }
    let line =
      "udmabridge memfd --size 4K --seal shrink -- bash -c \"printf '\(escaped)' >/tmp/$$.bytes; dd if=/tmp/$$.bytes of=/proc/self/fd/{} conv=notrunc status=none; rm /tmp/$$.bytes; udmabridge dump --fd {} --as png --size 3x2 --stride 16 --format \(format) --output \(directory)/image.png\""
    let (status, output) = try Tool.shell(line)
    #expect(status == 0, "\(output)")
    let decode = try TestSupport.run(
      "/usr/bin/python3", [repository.appending("Tests/ToolTests/png").string, "\(directory)/image.png"])
    // Which byte of a pixel is red, green, blue and alpha; without alpha it is opaque.
    let order: [Int] =
      switch format {
      case "XR24": [2, 1, 0]
      case "AB24": [0, 1, 2, 3]
      default: [1, 2, 3]
      }
    let expected = pixels.map { row in
      row.flatMap { pixel in order.map { Int(pixel[$0]) } + (order.count == 3 ? [255] : []) }
    }
    #expect(decode.output == "3 2 \(expected)\n")
  }

  @Test("an image that the memory does not hold is refused")
  func shortImage() throws {
    let (status, output) = try Tool.shell(
      "udmabridge memfd --size 4K -- udmabridge dump --fd {} --as png --size 64x64")
    #expect(status == 1)
    #expect(output.contains("needs 16384 bytes, and the memory has 4096"))
  }

  @Test("of a large memory only the image is read")
  func smallImage() throws {
    let (status, output) = try Tool.shell(
      "udmabridge memfd --size 512M --seal shrink -- bash -c 'udmabridge dump --fd {} --as png --size 64x64 --output /dev/null && stat -L -c %b /proc/self/fd/{}'"
    )
    #expect(status == 0, "\(output)")
    // Blocks of 512 bytes: the pages of 16 KiB, which reading allocated.
    #expect(Int(output.dropLast()) ?? .max <= 32, "\(output)")
  }
}
