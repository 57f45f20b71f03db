/// Something that is written as one JSON value.
package protocol JSONWritable {
  func write(to json: inout JSONWriter)
}

/// JSON, written straight into bytes that are used again for each message.
package struct JSONWriter {
  package private(set) var bytes: [UInt8] = []
  /// What comes next in an object or an array is separated from what was before.
  private var needsComma = false

  package init() {}

  /// Forgets what was written, and keeps the room for it.
  package mutating func removeAll() {
    bytes.removeAll(keepingCapacity: true)
    needsComma = false
  }

  /// `{...}`, whose fields `body` writes.
  package mutating func object(_ body: (inout JSONWriter) -> Void) { enclosed("{", "}", body) }

  package mutating func field(_ name: StaticString, _ value: some JSONWritable) {
    key(name)
    value.write(to: &self)
    needsComma = true
  }

  /// Writes nothing at all for nil.
  package mutating func field(_ name: StaticString, _ value: (some JSONWritable)?) {
    if let value { field(name, value) }
  }

  package mutating func field(_ name: StaticString, _ values: [some JSONWritable]) {
    field(name) { json in
      json.enclosed("[", "]") { json in
        for value in values {
          json.separate()
          value.write(to: &json)
          json.needsComma = true
        }
      }
    }
  }

  /// A field whose value `body` writes.
  package mutating func field(_ name: StaticString, _ body: (inout JSONWriter) -> Void) {
    key(name)
    body(&self)
    needsComma = true
  }

  /// A field whose name comes from outside.
  package mutating func field(quoting name: String, _ value: some JSONWritable) {
    separate()
    append(quoted: name)
    bytes.append(UInt8(ascii: ":"))
    value.write(to: &self)
    needsComma = true
  }

  /// A value that is JSON already.
  package mutating func raw(_ json: [UInt8]) { bytes += json }

  /// Ends a message (varlink: messages are separated by NUL).
  mutating func endMessage() { bytes.append(0) }

  private mutating func separate() {
    if needsComma { bytes.append(UInt8(ascii: ",")) }
    needsComma = false
  }

  private mutating func key(_ name: StaticString) {
    let (count, needsComma) = (name.utf8CodeUnitCount, needsComma)
    bytes.append(addingCapacity: count + 4) { output in
      if needsComma { output.append(UInt8(ascii: ",")) }
      output.append(UInt8(ascii: "\""))
      // A name of ours, that needs no escapes.
      for index in 0..<count { output.append(unsafe name.utf8Start[index]) }
      output.append(UInt8(ascii: "\""))
      output.append(UInt8(ascii: ":"))
    }
    self.needsComma = false
  }

  private mutating func enclosed(
    _ open: Unicode.Scalar, _ close: Unicode.Scalar, _ body: (inout JSONWriter) -> Void
  ) {
    bytes.append(UInt8(ascii: open))
    needsComma = false
    body(&self)
    bytes.append(UInt8(ascii: close))
    needsComma = true
  }

  fileprivate mutating func append(_ text: String) { bytes.append(contentsOf: text.utf8) }

  fileprivate mutating func append(_ number: Int) {
    // 2^63 has 19 digits.
    var digits = InlineArray<20, UInt8>(repeating: 0)
    var (rest, start) = (number.magnitude, 20)
    repeat {
      start -= 1
      digits[start] = UInt8(ascii: "0") + UInt8(rest % 10)
      rest /= 10
    } while rest > 0
    if number < 0 {
      start -= 1
      digits[start] = UInt8(ascii: "-")
    }
    bytes.append(addingCapacity: 20 - start) { output in
      for index in start..<20 { output.append(digits[index]) }
    }
  }

  fileprivate mutating func append(quoted text: String) {
    let digits: StaticString = "0123456789abcdef"
    // An escape has six characters.
    bytes.append(addingCapacity: 6 * text.utf8.count + 2) { output in
      output.append(UInt8(ascii: "\""))
      for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"):
          output.append(UInt8(ascii: "\\"))
          output.append(byte)
        case 0..<0x20:
          for byte in "\\u00".utf8 { output.append(byte) }
          output.append(unsafe digits.utf8Start[Int(byte >> 4)])
          output.append(unsafe digits.utf8Start[Int(byte & 15)])
        default: output.append(byte)
        }
      }
      output.append(UInt8(ascii: "\""))
    }
  }
}

extension Bool: JSONWritable {
  package func write(to json: inout JSONWriter) { json.append(self ? "true" : "false") }
}

extension Int: JSONWritable {
  package func write(to json: inout JSONWriter) { json.append(self) }
}

extension String: JSONWritable {
  package func write(to json: inout JSONWriter) { json.append(quoted: self) }
}

/// `{}`
package struct EmptyObject: JSONWritable, Decodable {
  package init() {}
  package func write(to json: inout JSONWriter) { json.object { _ in } }
}
