internal import Linux
internal import SystemPackage

/// The socket on which a back end asks the front end for something, with both of its ends.
public final class RequestChannel {
  private final class End {
    let socket: UnixSocket
    init(_ socket: consuming UnixSocket) { self.socket = socket }
  }

  private let mine: End
  private let theirs: End

  /// What a back end asked.
  public struct Asked: Equatable {
    public let code: UInt32
    public let payload: [UInt8]
    public init(_ code: UInt32, _ payload: [UInt8] = []) { (self.code, self.payload) = (code, payload) }
  }

  public init() throws {
    var ends: (mine: End, theirs: End)?
    try UnixSocket.pair { mine, theirs in ends = (End(mine), End(theirs)) }
    guard let ends else { preconditionFailure("a pair was made, or an error thrown") }
    (mine, theirs) = ends
    try mine.socket.fd.setNonblocking()
  }

  /// The end for `SET_BACKEND_REQ_FD`.
  public var number: CInt { theirs.socket.fd.withRaw { $0 } }

  /// What was asked since the last call. Nothing is acknowledged.
  public func next() throws -> [Asked] {
    var asked: [Asked] = []
    while let header = try receive(12) {
      let (code, flags, size): (UInt32, UInt32, UInt32) = (
        header.value(at: 0), header.value(at: 4), header.value(at: 8)
      )
      guard flags == 1, let payload = try receive(Int(size)) else { throw FrontEndError.wrongReply(header) }
      asked.append(Asked(code, payload))
    }
    return asked
  }

  /// - Returns: nil when nothing is there.
  private func receive(_ size: Int) throws -> [UInt8]? {
    var bytes: [UInt8] = []
    var descriptors = ReceivedDescriptors()
    if size == 0 { return bytes }
    do {
      _ = try mine.socket.receive(into: &bytes, upTo: size, descriptors: &descriptors)
    } catch {
      if error == .wouldBlock { return nil }
      throw error
    }
    guard bytes.count == size, descriptors.count == 0 else { throw FrontEndError.wrongReply(bytes) }
    return bytes
  }
}
