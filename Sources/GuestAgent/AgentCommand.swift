internal import LendingProtocol
internal import Varlink

/// A command of the agent to the helper. docs/port.md defines it.
enum AgentCommand {
  case hello(session: String)
  case prove(resource: UInt32, secret: String)
  case lend(LendCommand)
  case setMetadata(BufferID, lender: Int, BufferMetadata)
  case takeBack(BufferID, lender: Int, delay: Int?, patience: Int?)
  case endLender(Int)
  case beginAccess(BufferID, lender: Int, AccessMode)
  case endAccess(BufferID, lender: Int)

  /// The version of the protocol.
  static let version = 1

  struct LendCommand {
    let device, epoch: Int
    let resource: UInt32
    let lender: Int
    let offset, size: Int
    let use: BufferUse
    let metadata: BufferMetadata?
    let to: [String]?
  }

  private var name: String {
    switch self {
    case .hello: "hello"
    case .prove: "prove"
    case .lend: "lend"
    case .setMetadata: "setMetadata"
    case .takeBack: "return"
    case .endLender: "endLender"
    case .beginAccess: "beginAccess"
    case .endAccess: "endAccess"
    }
  }

  /// The line, with its end.
  func line(id: Int) -> [UInt8] {
    var json = JSONWriter()
    json.object { json in
      json.field("execute", name)
      json.field("arguments") { json in json.object(writeArguments) }
      json.field("id", id)
    }
    return json.bytes + [0x0a]
  }

  private func writeArguments(_ json: inout JSONWriter) {
    switch self {
    case .hello(let session):
      json.field("version", Self.version)
      json.field("session", session)
    case .prove(let resource, let secret):
      json.field("resource", Int(resource))
      json.field("secret", secret)
    case .lend(let lend):
      json.field("device", lend.device)
      json.field("epoch", lend.epoch)
      json.field("resource", Int(lend.resource))
      json.field("lender", lend.lender)
      json.field("offset", lend.offset)
      json.field("size", lend.size)
      json.field("use", lend.use.rawValue)
      json.field("metadata", lend.metadata)
      if let to = lend.to { json.field("to", to) }
    case .setMetadata(let buffer, let lender, let metadata):
      Self.write(buffer, lender, &json)
      json.field("metadata", metadata)
    case .takeBack(let buffer, let lender, let delay, let patience):
      Self.write(buffer, lender, &json)
      json.field("delay", delay)
      json.field("patience", patience)
    case .endLender(let lender): json.field("lender", lender)
    case .beginAccess(let buffer, let lender, let mode):
      Self.write(buffer, lender, &json)
      json.field("mode", mode.rawValue)
    case .endAccess(let buffer, let lender): Self.write(buffer, lender, &json)
    }
  }

  private static func write(_ buffer: BufferID, _ lender: Int, _ json: inout JSONWriter) {
    json.field("buffer", buffer)
    json.field("lender", lender)
  }
}

/// Random bytes from the kernel, as lower-case hexadecimal digits.
struct RandomBytes {
  let bytes: [UInt8]

  init(_ count: Int) {
    var generator = SystemRandomNumberGenerator()
    bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
  }

  var digits: String {
    bytes.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined()
  }
}
