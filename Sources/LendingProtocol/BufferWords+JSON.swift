package import Varlink

// Reads and writes facts about buffers as JSON. Reading checks every number. An unknown field is an error, so that a misspelt
// one is noticed.

extension BufferID: JSONWritable, Decodable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    guard let id = BufferID(try container.decode(String.self)) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "it has 32 hexadecimal digits")
    }
    self = id
  }

  package func write(to json: inout JSONWriter) { description.write(to: &json) }
}

extension BufferUse: Decodable {}
extension AccessMode: Decodable {}
extension RevocationReason: Decodable {}

extension KeyedDecodingContainer {
  /// - Throws: `DecodingError`, at the key or in its value. Foundation itself does not name the place of a number that does not
  ///   fit, or of an invalid text.
  package func value<Value: Decodable>(_ key: Key, as _: Value.Type = Value.self) throws -> Value {
    do { return try decode(Value.self, forKey: key) } catch {
      if let error = error as? DecodingError, !error.path.isEmpty { throw error }
      throw DecodingError.dataCorruptedError(forKey: key, in: self, debugDescription: "it cannot be read")
    }
  }

  /// The same, of a field that may be absent or null.
  package func optionalValue<Value: Decodable>(_ key: Key, as _: Value.Type = Value.self) throws -> Value? {
    try contains(key) && !decodeNil(forKey: key) ? value(key) : nil
  }

  /// A whole number of this range.
  /// - Throws: `DecodingError`, at the key.
  package func number(_ key: Key, in range: ClosedRange<Int>) throws -> Int {
    let number = try value(key, as: Int.self)
    guard range.contains(number) else {
      throw DecodingError.dataCorruptedError(
        forKey: key, in: self, debugDescription: "it is from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  /// The same, of a field that may be absent or null.
  package func optionalNumber(_ key: Key, in range: ClosedRange<Int>) throws -> Int? {
    try contains(key) && !decodeNil(forKey: key) ? number(key, in: range) : nil
  }
}

extension Decoder {
  /// The fields of an object that has no others than those of `Keys`.
  /// - Throws: `DecodingError`, at any other field.
  package func fields<Keys: CodingKey>(_: Keys.Type) throws -> KeyedDecodingContainer<Keys> {
    let all = try container(keyedBy: AnyKey.self)
    if let unknown = all.allKeys.first(where: { Keys(stringValue: $0.stringValue) == nil }) {
      throw DecodingError.dataCorruptedError(
        forKey: unknown, in: all, debugDescription: "there is no such field")
    }
    return try container(keyedBy: Keys.self)
  }
}

/// Numbers that every reader of JSON keeps exactly: up to 2^53.
package let exactNumbers = 0...(1 << 53)

extension BufferMetadata: JSONWritable, Decodable {
  private enum CodingKeys: String, CodingKey, CaseIterable { case image, values }

  package init(from decoder: any Decoder) throws {
    let fields = try decoder.fields(CodingKeys.self)
    image = try fields.optionalValue(.image)
    values = try fields.optionalValue(.values) ?? [:]
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("image", image)
      if values.isEmpty { return }
      json.field("values") { json in
        json.object { json in
          for (name, value) in values.sorted(by: { $0.key < $1.key }) { json.field(quoting: name, value) }
        }
      }
    }
  }
}

extension ImageMetadata: JSONWritable, Decodable {
  private enum CodingKeys: String, CodingKey, CaseIterable {
    case width, height, fourcc, stride, offset, modifier, colorSpace, timestamp
  }

  package init(from decoder: any Decoder) throws {
    let fields = try decoder.fields(CodingKeys.self)
    let numbers32 = 0...Int(UInt32.max)
    width = try fields.number(.width, in: 1...65535)
    height = try fields.number(.height, in: 1...65535)
    fourcc = try fields.number(.fourcc, in: numbers32)
    stride = try fields.number(.stride, in: numbers32)
    offset = try fields.optionalNumber(.offset, in: exactNumbers) ?? 0
    modifier = try fields.optionalValue(.modifier) ?? 0
    colorSpace = try fields.optionalValue(.colorSpace)
    timestamp = try fields.optionalValue(.timestamp)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("width", width)
      json.field("height", height)
      json.field("fourcc", fourcc)
      json.field("stride", stride)
      json.field("offset", offset)
      json.field("modifier", modifier)
      json.field("colorSpace", colorSpace)
      json.field("timestamp", timestamp)
    }
  }
}
