internal import FoundationEssentials
internal import LendingProtocol

/// A line of the helper. docs/port.md defines it. Unknown fields are ignored, because the helper may be newer.
enum HostLine {
  case answer(Int, Result<HostReturn, HostRefusal>)
  /// The answer to a line that the helper could not understand.
  case complaint(HostRefusal)
  case event(HostEvent)

  private struct Envelope: Decodable {
    let id: Int?
    let `return`: HostReturn?
    let error: HostRefusal?
    let event: String?
    let data: HostEventData?
  }

  /// Reads a line without its end; nil for any other line.
  init?(_ bytes: [UInt8]) {
    guard let line = try? JSONDecoder().decode(Envelope.self, from: Data(bytes)) else { return nil }
    switch (line.id, line.return, line.error, line.event) {
    case (let id?, let answer?, nil, nil): self = .answer(id, .success(answer))
    case (let id?, nil, let refusal?, nil): self = .answer(id, .failure(refusal))
    case (nil, nil, let refusal?, nil): self = .complaint(refusal)
    case (nil, nil, nil, let name?):
      guard let event = line.data.flatMap({ HostEvent(name, $0) }) else { return nil }
      self = .event(event)
    default: return nil
    }
  }
}

/// The result of a command. The command decides which fields are there.
struct HostReturn: Decodable {
  struct Limits: Decodable, Equatable {
    /// In bytes, in number, in bytes.
    let line, buffers, metadata: Int
  }

  var session: String?
  var limits: Limits?
  var audiences: [String]?
  var device, epoch: Int?
  var buffer: BufferID?
}

/// Why the helper refused a command.
struct HostRefusal: Decodable, Error, Equatable {
  let `class`: String
  let desc: String
}

/// All fields that an event may have.
struct HostEventData: Decodable {
  var buffer: BufferID?
  var count, bytesUsed, timestamp, lost, cutOff, device, epoch: Int?
  var mode: AccessMode?
  var metadata: BufferMetadata?
  var reading: Bool?
  var reason: String?
  /// Of an offer.
  var offer, size, patience: Int?
  var writable: Bool?
}

/// An event of the helper.
enum HostEvent {
  case importers(BufferID, Int)
  case accessBegun(BufferID, AccessMode)
  case accessEnded(BufferID)
  case filled(BufferID, bytesUsed: Int, timestamp: Int?, metadata: BufferMetadata?, lost: Int)
  case fillAborted(BufferID)
  case returned(BufferID, cutOff: Int, reading: Bool)
  case revoked(BufferID, reason: String)
  case deviceReset(Int, epoch: Int)
  case offered(GuestOffer)
  case withdrawing(Int, patience: Int)
  case withdrawn(Int)

  /// Nil for an unknown event, or one without a needed field.
  init?(_ name: String, _ data: HostEventData) {
    switch (name, data.buffer) {
    case ("importers", let buffer?): self = .importers(buffer, data.count ?? 0)
    case ("accessBegun", let buffer?): self = .accessBegun(buffer, data.mode ?? .readWrite)
    case ("accessEnded", let buffer?): self = .accessEnded(buffer)
    case ("filled", let buffer?):
      guard let bytesUsed = data.bytesUsed else { return nil }
      self = .filled(
        buffer, bytesUsed: bytesUsed, timestamp: data.timestamp, metadata: data.metadata,
        lost: data.lost ?? 0)
    case ("fillAborted", let buffer?): self = .fillAborted(buffer)
    case ("returned", let buffer?):
      self = .returned(buffer, cutOff: data.cutOff ?? 0, reading: data.reading ?? false)
    case ("revoked", let buffer?):
      guard let reason = data.reason else { return nil }
      self = .revoked(buffer, reason: reason)
    case ("deviceReset", nil):
      guard let device = data.device, let epoch = data.epoch else { return nil }
      self = .deviceReset(device, epoch: epoch)
    case ("offered", nil):
      guard let id = data.offer, id > 0, let device = data.device, let size = data.size, size > 0 else {
        return nil
      }
      self = .offered(
        GuestOffer(
          id: id, device: device, size: size, isWritable: data.writable ?? true,
          metadata: data.metadata ?? BufferMetadata()))
    case ("withdrawing", nil):
      guard let id = data.offer else { return nil }
      self = .withdrawing(id, patience: data.patience ?? 0)
    case ("withdrawn", nil):
      guard let id = data.offer else { return nil }
      self = .withdrawn(id)
    default: return nil
    }
  }
}
