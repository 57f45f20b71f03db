import ArgumentParser
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Udmabuf
import Varlink

extension BufferID: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

/// A buffer that a guest lends, imported for as long as this object exists.
final class LentMemory {
  let facts: ImportReply
  let dmabuf: DMABuf
  let token: HoldToken
  private let client: BuffersClient
  /// Only a dma-buf needs a call before the CPU uses it.
  private let isDMABuf: Bool

  /// The lent bytes: their offset in the dma-buf, and their number.
  var offset: Int { facts.offset }
  var length: Int { facts.size }

  init(_ client: BuffersClient, _ id: BufferID, forWriting: Bool) throws {
    var reply = try client.call("Import", BuffersRequest(id: id, forWriting: forWriting))
    (facts, self.client) = (try reply.decode(), client)
    guard let fd = reply.descriptor.take(), let token = reply.secondDescriptor.take() else {
      throw Trouble("the service passed no descriptors")
    }
    self.token = HoldToken(token)
    isDMABuf = (try? fd.fileKind()) == .dmaBuf
    dmabuf = try DMABuf(adopting: fd)
    let (end, isBeyond) = facts.offset.addingReportingOverflow(facts.size)
    guard facts.offset >= 0, facts.size > 0, !isBeyond, UInt64(end) <= dmabuf.size else {
      throw Trouble(
        "buffer \(id) has \(facts.size) bytes from offset \(facts.offset) on, but its dma-buf has only \(dmabuf.size)"
      )
    }
  }

  /// Asks about this buffer, on the connection of its import.
  func call(_ method: String, _ filling: FillingFacts? = nil) throws {
    _ = try client.call(method, BuffersRequest(id: facts.buffer.id, filling: filling))
  }

  /// Lends a mapping of all of the dma-buf.
  func access(_ access: DMABuf.Access, _ body: (Mapping) throws -> Void) throws {
    let mapping = try dmabuf.map(writable: access.contains(.write))
    if isDMABuf { try dmabuf.beginCPUAccess(access) }
    defer { if isDMABuf { try? dmabuf.endCPUAccess(access) } }
    try body(mapping)
  }
}
