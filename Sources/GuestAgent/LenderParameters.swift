internal import LendingProtocol
internal import Varlink

// Parameters from callers of io.udmabridge.Lender. Numbers are within the port's limits.

struct MakeParameters: VarlinkParameters {
  static let names = ["size"]
  let size: Int

  private enum CodingKeys: String, CodingKey { case size }

  init(from decoder: any Decoder) throws {
    size = try decoder.container(keyedBy: CodingKeys.self).number(.size, in: 1...exactNumbers.upperBound)
  }
}

struct LendParameters: VarlinkParameters {
  static let names = ["fileDescriptor", "offset", "size", "metadata", "to", "use", "copy"]
  /// Of audiences.
  private static let mostNames = 16
  let fileDescriptor, offset: Int
  let size: Int?
  let metadata: BufferMetadata?
  let to: [String]?
  let use: BufferUse
  let copy: Bool

  private enum CodingKeys: String, CodingKey { case fileDescriptor, offset, size, metadata, to, use, copy }

  init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    fileDescriptor = try fields.optionalNumber(.fileDescriptor, in: 0...7) ?? 0
    offset = try fields.optionalNumber(.offset, in: exactNumbers) ?? 0
    size = try fields.optionalNumber(.size, in: 1...exactNumbers.upperBound)
    metadata = try fields.decodeIfPresent(BufferMetadata.self, forKey: .metadata)
    to = try fields.decodeIfPresent([String].self, forKey: .to)
    if let to, to.count > Self.mostNames {
      throw DecodingError.dataCorruptedError(
        forKey: .to, in: fields, debugDescription: "at most \(Self.mostNames) audiences")
    }
    use = try fields.decodeIfPresent(BufferUse.self, forKey: .use) ?? .read
    copy = try fields.decodeIfPresent(Bool.self, forKey: .copy) ?? false
  }
}

struct BufferParameters: VarlinkParameters {
  static let names = ["buffer"]
  let buffer: BufferID
}

struct SetMetadataParameters: VarlinkParameters {
  static let names = ["buffer", "metadata"]
  let buffer: BufferID
  let metadata: BufferMetadata
}

struct BeginAccessParameters: VarlinkParameters {
  static let names = ["buffer", "mode"]
  let buffer: BufferID
  let mode: AccessMode
}

struct ReturnParameters: VarlinkParameters {
  static let names = ["buffer", "delay", "patience"]
  let buffer: BufferID
  let delay, patience: Int?

  private enum CodingKeys: String, CodingKey { case buffer, delay, patience }

  init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    buffer = try fields.decode(BufferID.self, forKey: .buffer)
    delay = try fields.optionalNumber(.delay, in: 0...86_400_000)
    patience = try fields.optionalNumber(.patience, in: 0...3_600_000)
  }
}

/// Either the number of an offer, or a value of its metadata.
struct ReceiveParameters: VarlinkParameters {
  static let names = ["offer", "name", "value"]
  let offer: Int?
  let name, value: String?

  private enum CodingKeys: String, CodingKey { case offer, name, value }

  init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: CodingKeys.self)
    offer = try fields.optionalNumber(.offer, in: 1...exactNumbers.upperBound)
    name = try fields.decodeIfPresent(String.self, forKey: .name)
    value = try fields.decodeIfPresent(String.self, forKey: .value)
    if (offer == nil) == (name == nil) || (name == nil) != (value == nil) {
      throw DecodingError.dataCorruptedError(
        forKey: .offer, in: fields, debugDescription: "an offer, or a name and a value")
    }
  }
}

// The replies.

struct MakeReply: JSONWritable {
  let size: Int
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("fileDescriptor", 0)
      json.field("size", size)
    }
  }
}

struct LendReply: JSONWritable {
  let buffer: BufferID
  let copied: Bool
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("buffer", buffer)
      json.field("copied", copied)
    }
  }
}
