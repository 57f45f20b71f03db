import ArgumentParser
import LendingProtocol
import Linux
import Programs
import Udmabuf

struct ImportBuffer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Take a buffer that a guest lends, and hand its dma-buf on.",
    discussion: """
      With the dma-buf goes a second descriptor, the token: the guest does not get its pages back, within its patience, as \
      long as anybody has a copy of it. COMMAND inherits both, and is told what is lent: UDMABRIDGE_FD, UDMABRIDGE_TOKEN, \
      UDMABRIDGE_OFFSET and UDMABRIDGE_SIZE. Poll says POLLERR of the token when the buffer is taken back. With --send the \
      token is the second descriptor.

        udmabridge buffers import --control /run/vg.control 0011...eeff -- my-player --dmabuf {}
      """)

  @OptionGroup var socket: HelperChoice

  @Flag(help: "Say that you will write.")
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
