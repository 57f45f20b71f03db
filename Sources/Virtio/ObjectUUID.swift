/// The name under which virtio devices share an object (virtio 1.3, 2.11: exporting objects).
package struct ObjectUUID: Hashable, Sendable {
  /// The size in bytes.
  package static let size = 16

  /// The bytes in the order of messages: `size` of them.
  package let bytes: [UInt8]

  /// Takes a peer's UUID of any version.
  package init(_ bytes: [UInt8]) {
    precondition(bytes.count == Self.size, "a UUID has 16 bytes")
    self.bytes = bytes
  }

  /// A new random UUID (version 4, RFC 9562, 5.4), from the system's generator.
  package static func random() -> ObjectUUID {
    var generator = SystemRandomNumberGenerator()
    var bytes = (0..<size).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    bytes[6] = bytes[6] & 0x0f | 0x40  // the version
    bytes[8] = bytes[8] & 0x3f | 0x80  // the variant
    return ObjectUUID(bytes)
  }
}

extension ObjectUUID: CustomStringConvertible {
  /// Hexadecimal, in groups of 4, 2, 2, 2 and 6 bytes.
  package var description: String {
    var text = ""
    for (index, byte) in bytes.enumerated() {
      if [4, 6, 8, 10].contains(index) { text += "-" }
      text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
    return text
  }
}
