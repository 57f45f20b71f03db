internal import CLinux
internal import CUdmabuf
internal import Linux
internal import SystemPackage

/// The socket on which a back end asks the front end for something, with both of its ends.
package final class RequestChannel {
  private final class End {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  private var mine: End?
  private let theirs: End

  /// What a back end asked.
  package struct Asked: Equatable {
    package let code: UInt32
    package let payload: [UInt8]
    /// An acknowledgement was asked for.
    package let needsReply: Bool
    /// The inode of the descriptor that came with it.
    package let inode: UInt64?

    package init(_ code: UInt32, _ payload: [UInt8] = [], needsReply: Bool = false, inode: UInt64? = nil) {
      (self.code, self.payload, self.needsReply, self.inode) = (code, payload, needsReply, inode)
    }
  }

  package init() throws {
    var ends: (mine: End, theirs: End)?
    try UnixSocket.pair { mine, theirs in ends = (End(mine), End(theirs)) }
    guard let ends else { preconditionFailure("a pair was made, or an error thrown") }
    (mine, theirs) = ends
    try ends.mine.socket.fd.setNonblocking()
  }

  /// The end for `SET_BACKEND_REQ_FD`.
  package var number: CInt { theirs.socket.fd.withRaw { $0 } }

  /// Waits until something was asked.
  /// - Returns: false if nothing was in that time.
  package func waitUntilAsked(milliseconds: CInt) -> Bool {
    mine.map { $0.socket.fd.withRaw { cu_pollable($0, CL_EPOLLIN, milliseconds) } == 1 } ?? false
  }

  /// What was asked since the last call. Nothing is acknowledged.
  package func next() throws -> [Asked] {
    var asked: [Asked] = []
    while let (header, inode) = try receive(12) {
      let (code, flags, size): (UInt32, UInt32, UInt32) = (
        header.value(at: 0), header.value(at: 4), header.value(at: 8)
      )
      guard flags & ~8 == 1, let (payload, _) = try receive(Int(size)) else {
        throw FrontEndError.wrongReply(header)
      }
      asked.append(Asked(code, payload, needsReply: flags & 8 != 0, inode: inode))
    }
    return asked
  }

  /// Acknowledges a request: 0 says that it was done.
  package func acknowledge(_ code: UInt32, _ word: UInt64 = 0, size: UInt32 = 8, flags: UInt32 = 5) throws {
    try send([code, flags, size].flatMap(\.bytes) + word.bytes)
  }

  package func send(_ bytes: [UInt8]) throws { _ = unsafe try mine?.socket.send(bytes.span.bytes) }

  /// Closes this end.
  package func hangUp() {
    mine?.socket.shutDown()
    mine = nil
  }

  /// - Returns: nil when nothing is there.
  private func receive(_ size: Int) throws -> (bytes: [UInt8], inode: UInt64?)? {
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    guard size > 0, let mine else { return (bytes, nil) }
    do {
      _ = try mine.socket.receive(into: &bytes, upTo: size, descriptors: &descriptors)
    } catch {
      if error == .wouldBlock { return nil }
      throw error
    }
    guard bytes.count == size, descriptors.count <= 1 else { throw FrontEndError.wrongReply(bytes) }
    let fd = descriptors.take(0)
    return (bytes, try fd?.status().inode)
  }
}
