internal import Buffers
internal import Lending
internal import LendingProtocol
internal import Linux
internal import Varlink

/// The result of a command.
enum PortReturn: JSONWritable {
  case nothing
  case hello(session: String, line: Int, LendingLimits, audiences: [String])
  case device(Int, epoch: UInt64)
  case buffer(BufferID)

  func write(to json: inout JSONWriter) {
    json.object { json in
      switch self {
      case .nothing: break
      case .hello(let session, let line, let limits, let audiences):
        json.field("session", session)
        json.field("limits") { json in
          json.object { json in
            json.field("line", line)
            json.field("buffers", limits.buffers)
            json.field("metadata", limits.metadata)
          }
        }
        json.field("audiences", audiences)
      case .device(let number, let epoch):
        json.field("device", number)
        json.field("epoch", Int(clamping: epoch))
      case .buffer(let id): json.field("buffer", id)
      }
    }
  }
}

/// The answer to a line.
struct PortAnswer: JSONWritable {
  let result: Result<PortReturn, PortError>
  /// Of the command, if it could be read.
  let id: Int?

  /// The most bytes of an error's text, which may quote the guest.
  private static let longestText = 1024

  func write(to json: inout JSONWriter) {
    json.object { json in
      switch result {
      case .success(let value): json.field("return", value)
      case .failure(let error):
        json.field("error") { json in
          json.object { json in
            json.field("class", error.name.rawValue)
            json.field("desc", String(decoding: error.text.utf8.prefix(Self.longestText), as: UTF8.self))
          }
        }
      }
      json.field("id", id)
    }
  }
}

/// An event for the agent.
enum PortEvent: JSONWritable {
  case deviceReset(Int, epoch: UInt64)
  case importers(BufferID, count: Int)
  case accessBegun(BufferID, AccessMode)
  case accessEnded(BufferID)
  case filled(BufferID, Fill, lost: Int)
  case fillAborted(BufferID)
  case returned(BufferID, cutOff: Int, isRead: Bool)
  case revoked(BufferID, RevocationReason)
  /// Memory of the host, for the device of this number.
  case offered(Offer, device: Int)
  case withdrawing(Offer, patience: TimeSpan)
  case withdrawn(Offer)

  /// The event for an offer.
  init?(_ news: OfferNews, _ offer: Offer, _ table: OfferTable) {
    switch news {
    case .offered: self = .offered(offer, device: table.deviceNumber)
    case .withdrawing: self = .withdrawing(offer, patience: offer.timeLeft(table.now) ?? .zero)
    case .withdrawn: self = .withdrawn(offer)
    case .used: return nil
    }
  }

  /// The event for a buffer's present state; nil if there is none any more.
  init?(_ event: LendingEvent) {
    let (buffer, id) = (event.buffer, event.buffer.id)
    switch event.news {
    case .importers: self = .importers(id, count: buffer.imports.count)
    case .importerAccessBegun:
      guard let mode = buffer.importerAccess else { return nil }
      self = .accessBegun(id, mode)
    case .importerAccessEnded: self = .accessEnded(id)
    case .filled:
      guard let fill = buffer.lastFill else { return nil }
      self = .filled(id, fill, lost: event.lost)
    case .fillAborted: self = .fillAborted(id)
    case .over:
      switch buffer.state {
      case .returned(let count, let isRead): self = .returned(id, cutOff: count, isRead: isRead)
      case .revoked(let reason): self = .revoked(id, reason)
      case .lent, .returning: preconditionFailure("what is over stays that")
      }
    default: return nil
    }
  }

  private var name: String {
    switch self {
    case .deviceReset: "deviceReset"
    case .importers: "importers"
    case .accessBegun: "accessBegun"
    case .accessEnded: "accessEnded"
    case .filled: "filled"
    case .fillAborted: "fillAborted"
    case .returned: "returned"
    case .revoked: "revoked"
    case .offered: "offered"
    case .withdrawing: "withdrawing"
    case .withdrawn: "withdrawn"
    }
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("event", name)
      json.field("data") { json in json.object(writeData) }
    }
  }

  private func writeData(to json: inout JSONWriter) {
    switch self {
    case .deviceReset(let device, let epoch):
      json.field("device", device)
      json.field("epoch", Int(clamping: epoch))
    case .importers(let id, let count):
      json.field("buffer", id)
      json.field("count", count)
    case .accessBegun(let id, let mode):
      json.field("buffer", id)
      json.field("mode", mode.rawValue)
    case .accessEnded(let id), .fillAborted(let id): json.field("buffer", id)
    case .filled(let id, let fill, let lost):
      json.field("buffer", id)
      json.field("bytesUsed", Int(clamping: fill.bytesUsed))
      json.field("timestamp", fill.timestamp)
      json.field("metadata", fill.metadata)
      if lost > 0 { json.field("lost", lost) }
    case .returned(let id, let count, let isRead):
      json.field("buffer", id)
      json.field("cutOff", count)
      json.field("reading", isRead)
    case .revoked(let id, let reason):
      json.field("buffer", id)
      json.field("reason", reason.rawValue)
    case .offered(let offer, let device):
      json.field("offer", Int(clamping: offer.id))
      json.field("device", device)
      json.field("size", Int(clamping: offer.memory.size))
      json.field("writable", offer.memory.isWritable)
      json.field("metadata", offer.metadata)
    case .withdrawing(let offer, let patience):
      json.field("offer", Int(clamping: offer.id))
      json.field("patience", Int(patience.milliseconds))
    case .withdrawn(let offer): json.field("offer", Int(clamping: offer.id))
    }
  }
}
