import ArgumentParser
import LendingProtocol
import Linux
import Programs
import Udmabuf

struct ImportBuffer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Import a buffer that a guest lends, and hand its dma-buf on.",
    discussion: """
      A second descriptor goes with the dma-buf: the token. While any process holds a copy of the token, the guest waits \
      for its pages, as long as its patience lasts. COMMAND inherits both descriptors. UDMABRIDGE_FD and UDMABRIDGE_TOKEN \
      have their numbers, UDMABRIDGE_OFFSET and UDMABRIDGE_SIZE say which bytes are lent. Poll reports POLLERR for the \
      token when the guest takes the buffer back. --send sends the token as the second descriptor.

        udmabridge buffers import --control /run/vg.control 0011...eeff -- my-player --dmabuf {}
      """)

  @OptionGroup var socket: HelperChoice

  @Flag(help: "Import the buffer for writing.")
  var forWriting = false

  @Argument(help: "The buffer's id.")
  var id: BufferID

  @OptionGroup var output: OutputOptions
  @OptionGroup(title: "What becomes of it") var handover: HandoverOptions

  func run() throws {
    let lent = try LentMemory(socket.buffers(), id, forWriting: forWriting)
    let facts = HandoverOptions.Facts(
      kind: .dmabuf, size: lent.dmabuf.size, inode: lent.dmabuf.inode, buffer: "\(id)",
      offset: UInt64(lent.offset), length: UInt64(lent.length))
    try lent.dmabuf.withDescriptor { try handover.perform($0, facts, output, token: lent.token) }
  }
}
