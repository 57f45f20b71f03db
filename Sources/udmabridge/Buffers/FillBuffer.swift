import ArgumentParser
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Udmabuf

struct FillBuffer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fill",
    abstract: "Write a file into a buffer that a guest lends to be filled.",
    discussion: """
      The guest is told how many bytes were written. If something goes wrong, it is told that the buffer was not filled. \
      The bytes that were written before stay in the buffer.

        camera-frame | udmabridge buffers fill --domain web 0011...eeff
      """)

  @OptionGroup var socket: HelperChoice

  @Option(help: ArgumentHelp("The time of the content, in nanoseconds of any clock.", valueName: "number"))
  var timestamp: Int?

  @Flag(help: "Print the result as JSON.")
  var json = false

  @Argument(help: "The buffer's id.")
  var id: BufferID

  @Argument(help: "The file to write into the buffer; by default standard input.")
  var file: String?

  private struct Facts: Encodable {
    let buffer: String
    let bytesUsed: Int
  }

  func run() throws {
    let input = try openInput()
    let lent = try LentMemory(socket.buffers(), id, forWriting: true)
    try lent.call("Fill")
    try exitOnBusError("udmabridge: the buffer's memory is gone\n")
    var count = 0
    try lent.access(.write) { mapping in
      while true {
        // One byte more than fits shows that the file is too long.
        let piece = try input.read(upTo: min(1 << 20, lent.length - count + 1))
        if piece.isEmpty { break }
        guard piece.count <= lent.length - count else {
          throw Trouble(
            "\(file ?? "standard input") has more than the \(lent.length) bytes that buffer \(id) has room for"
          )
        }
        unsafe mapping.store(piece.span.bytes, at: lent.offset + count)
        count += piece.count
      }
    }
    try lent.call("Filled", FillingFacts(bytesUsed: count, timestamp: timestamp, metadata: nil))
    if json { print(try jsonText(Facts(buffer: "\(id)", bytesUsed: count))) }
  }

  private func openInput() throws -> FD {
    do throws(Errno) {
      guard let file else { return try FD.copy(ofInherited: 0) }
      return try FD.open(FilePath(file), writable: false)
    } catch { throw Trouble("\(file ?? "standard input") cannot be read: \(error)") }
  }
}
