internal import FoundationEssentials
package import Linux
package import SystemPackage

/// Why a call got no reply.
package enum VarlinkClientError: Error, CustomStringConvertible {
  /// No service listens there, or the caller may not connect.
  case connecting(FilePath, Errno)
  case transport(Errno)
  /// The service ended the connection, as it does with callers that it does not admit.
  case closed
  /// The bytes that came are not a reply.
  case malformed(String)
  /// The method answered with an error: its name, and its parameters as text.
  case answered(name: String, parameters: String)

  package var description: String {
    switch self {
    case .connecting(let path, let error):
      switch error {
      case .noSuchFileOrDirectory: "there is no control socket \(path)"
      case .connectionRefused: "no program serves the control socket \(path) any more"
      default: "the control socket \(path) cannot be used: \(error)"
      }
    case .transport(let error): "the connection to the service broke: \(error)"
    case .closed:
      "the service closed the connection: it ended, or does not allow this user, or has too many connections"
    case .malformed(let what): "the service's answer is not a varlink reply: \(what)"
    case .answered(let name, let parameters):
      parameters.isEmpty ? "the service answered \(name)" : "the service answered \(name): \(parameters)"
    }
  }
}

private struct ReplyBody<Parameters: Decodable>: Decodable { let parameters: Parameters }

/// A connection to a service. It waits for each reply, or takes it in an event loop.
package final class VarlinkClient {
  private let socket: UnixSocket
  private let longestReply: Int
  private var input: [UInt8] = []
  /// The number of its first bytes that were searched for a message's end.
  private var searched = 0
  /// The descriptors of the reply that is being received.
  private var descriptors = ReceivedDescriptors()

  /// Connects.
  /// - Parameters:
  ///   - limit: how long to wait for a place in the service's queue.
  ///   - longestReply: the limit on a reply in bytes.
  package init(
    _ path: FilePath, within limit: TimeSpan = .seconds(5), longestReply: Int = 16 << 20
  ) throws(VarlinkClientError) {
    self.longestReply = longestReply
    do throws(Errno) { socket = try UnixSocket.connect(path, within: limit) } catch {
      throw .connecting(path, error)
    }
  }

  /// Adopts a connected socket.
  package init(adopting socket: consuming UnixSocket) {
    self.socket = socket
    longestReply = 16 << 20
  }

  /// A reply: its parameters as JSON, the descriptors that came with it, and whether another one follows.
  package struct Reply: ~Copyable {
    /// JSON, an object.
    package let message: [UInt8]
    package let continues: Bool
    /// The first one, and the second.
    package var descriptor, secondDescriptor: FD?

    /// Reads the parameters.
    package borrowing func decode<Parameters: Decodable>(
      _: Parameters.Type = Parameters.self
    ) throws(VarlinkClientError) -> Parameters {
      do { return try JSONDecoder().decode(ReplyBody<Parameters>.self, from: Data(message)).parameters } catch
      {
        throw .malformed("\(error)")
      }
    }
  }

  /// Calls a method and waits for its answer.
  package func call(
    _ method: String, _ parameters: some JSONWritable = EmptyObject()
  ) throws(VarlinkClientError) -> Reply {
    try send(method, parameters, more: false)
    return try next()
  }

  /// Calls a method with a descriptor; the service gets a copy of it. Its index is 0.
  package func call(
    _ method: String, _ parameters: some JSONWritable, passing fd: borrowing FD
  ) throws(VarlinkClientError) -> Reply {
    try send(method, parameters, more: false, rawDescriptors: [fd.withRaw { $0 }])
    return try next()
  }

  /// The same with two. Their indices are 0 and 1.
  package func call(
    _ method: String, _ parameters: some JSONWritable, passing first: borrowing FD, _ second: borrowing FD
  ) throws(VarlinkClientError) -> Reply {
    try send(
      method, parameters, more: false, rawDescriptors: [first.withRaw { $0 }, second.withRaw { $0 }])
    return try next()
  }

  /// Calls a method that has several replies: ask `next` for each.
  package func callMore(
    _ method: String, _ parameters: some JSONWritable = EmptyObject()
  ) throws(VarlinkClientError) {
    try send(method, parameters, more: true)
  }

  private func send(
    _ method: String, _ parameters: some JSONWritable, more: Bool, rawDescriptors: [CInt] = []
  ) throws(VarlinkClientError) {
    var writer = JSONWriter()
    writer.object { json in
      json.field("method", method)
      json.field("parameters", parameters)
      if more { json.field("more", true) }
    }
    writer.endMessage()
    do throws(Errno) {
      var sent = 0
      while sent < writer.bytes.count {
        sent += unsafe try socket.send(
          writer.bytes.span.bytes.extracting(droppingFirst: sent),
          rawDescriptors: sent == 0 ? rawDescriptors : [])
      }
    } catch { throw error == .brokenPipe || error == .connectionReset ? .closed : .transport(error) }
  }

  private struct Envelope: Decodable {
    let error: String?
    let continues: Bool?
    let parameters: [String: Scalar]?

    enum Key: String, CodingKey { case error, continues, parameters }

    init(from decoder: any Decoder) throws {
      let object = try decoder.container(keyedBy: Key.self)
      error = try object.decodeIfPresent(String.self, forKey: .error)
      continues = try object.decodeIfPresent(Bool.self, forKey: .continues)
      // An error's parameters become text; the caller decodes those of a reply.
      parameters = error == nil ? nil : try? object.decode([String: Scalar].self, forKey: .parameters)
    }
  }

  /// A parameter of an error.
  private enum Scalar: Decodable, CustomStringConvertible {
    case number(Int)
    case text(String)

    init(from decoder: any Decoder) throws {
      let value = try decoder.singleValueContainer()
      self = try (try? value.decode(Int.self)).map { .number($0) } ?? .text(value.decode(String.self))
    }

    var description: String {
      switch self {
      case .number(let number): "\(number)"
      case .text(let text): text
      }
    }
  }

  /// Waits for the next reply.
  package func next() throws(VarlinkClientError) -> Reply {
    while true {
      if let reply = try nextReceived() { return reply }
      do throws(Errno) { _ = try socket.waitUntilReadable() } catch { throw .transport(error) }
    }
  }

  // MARK: In an event loop

  /// Lends the socket, to be watched: when it is readable, `nextReceived` has something to do.
  package func withDescriptor<Result: ~Copyable, Failure: Error>(
    _ body: (borrowing FD) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(socket.fd)
  }

  /// Calls a method, and leaves its answer to `nextReceived`. One call at a time: a descriptor belongs to the reply
  /// that is awaited.
  package func begin(
    _ method: String, _ parameters: some JSONWritable = EmptyObject()
  ) throws(VarlinkClientError) {
    try send(method, parameters, more: false)
  }

  /// The next reply, if all of it is there; ask again until there is none.
  package func nextReceived() throws(VarlinkClientError) -> Reply? {
    var found = input[searched...].firstIndex(of: 0)
    while found == nil {
      searched = input.count
      guard input.count <= longestReply else {
        throw .malformed("it has more than \(longestReply) bytes, which is the limit")
      }
      let count: Int
      do throws(Errno) {
        count = try socket.receive(into: &input, upTo: 64 << 10, descriptors: &descriptors)
      } catch {
        if error == .wouldBlock { return nil }
        throw error == .connectionReset ? .closed : .transport(error)
      }
      if count == 0 { throw .closed }
      found = input[searched...].firstIndex(of: 0)
    }
    let end = found ?? input.endIndex
    let message = Array(input[..<end])
    input.removeFirst(end + 1)
    searched = 0
    let first = descriptors.take(0)
    let second = descriptors.take(1)
    descriptors = ReceivedDescriptors()
    let envelope: Envelope
    do { envelope = try JSONDecoder().decode(Envelope.self, from: Data(message)) } catch {
      throw .malformed("\(error)")
    }
    if let name = envelope.error {
      let parameters = (envelope.parameters ?? [:]).sorted { $0.key < $1.key }
      throw .answered(
        name: name, parameters: parameters.map { "\($0.key) \($0.value)" }.joined(separator: ", "))
    }
    return Reply(
      message: message, continues: envelope.continues ?? false, descriptor: first, secondDescriptor: second)
  }
}
