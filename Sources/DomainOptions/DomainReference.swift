/// The one string that libvirt hands to a back end of a domain's video, `<acceleration rendernode='...'/>`: which
/// domain it is, and what the helper is to do for it.
///
/// It is written `/run/udmabridge/NAME?OPTION=VALUE;OPTION=VALUE`. libvirt takes it for the path of a device, and lets the
/// domain's cgroup use that; the hook makes it a link to `/dev/udmabuf`.
package struct DomainReference: Equatable, Sendable, CustomStringConvertible {
  /// The domain's name.
  package let domain: String
  /// Options of `vhost-user-udmabuf`, in order; one may be there more than once.
  package let options: [DomainOption]

  private static let prefix = "/run/udmabridge/"
  /// The rest is the name of one file.
  private static let longest = 255

  /// - Parameter options: those of the string, which is checked by reading it back.
  package init(domain: String, options: [DomainOption] = []) {
    (self.domain, self.options) = (domain, options)
  }

  /// A string like this is meant for this project; any other names a render node, or is somebody else's.
  package static func isMeant(by text: String) -> Bool { text.hasPrefix(prefix) }

  /// Reads what libvirt passes.
  package init(_ text: String) throws(DomainError) {
    guard Self.isMeant(by: text) else { throw .noReference(text) }
    let file = text.dropFirst(Self.prefix.count)
    let parts = file.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, !file.contains("/"), let name = PercentText.decode(parts[0]), !name.isEmpty else {
      throw .noReference(text)
    }
    _ = try DomainPlaces(name)
    guard file.utf8.count <= Self.longest else { throw .tooLong(text) }
    domain = name
    var read: [DomainOption] = []
    for word in parts[1].split(separator: ";") {
      let sides = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard let key = PercentText.decode(sides[0]), sides.count == 2,
        let value = PercentText.decode(sides[1])
      else { throw .noOption(String(word)) }
      read.append(try DomainOption(key, value))
    }
    options = read
  }

  /// As libvirt is to pass it.
  package var description: String {
    let words = options.map { "\($0.name)=\(PercentText.encode($0.value))" }
    return Self.prefix + PercentText.encode(domain) + "?" + words.joined(separator: ";")
  }
}

/// What is wrong with what a domain asks for.
package enum DomainError: Error, Equatable, CustomStringConvertible {
  case noReference(String)
  case tooLong(String)
  /// The domain's name, as it is written in names of files.
  case nameTooLong(String)
  case noOption(String)
  case unknownOption(String)
  /// A domain's file cannot be read.
  case file(String, String)
  /// A line of it.
  case line(file: String, number: Int, String)

  package var description: String {
    switch self {
    case .noReference(let text):
      "«\(text.prefix(200))» is no name of a domain: write /run/udmabridge/NAME? or "
        + "/run/udmabridge/NAME?OPTION=VALUE;..., with %2F for each / in a value"
    case .nameTooLong(let name):
      "the domain's name takes \(name.utf8.count) bytes («\(name.prefix(60))...», three for each byte that is written "
        + "%XX), and may take \(DomainPlaces.longest): give the domain a shorter one (virsh domrename)"
    case .tooLong(let text):
      "«\(text.prefix(60))...» has \(text.utf8.count) bytes, and may have 271: give the domain's options in "
        + "/etc/udmabridge/NAME.conf instead"
    case .noOption(let text): "«\(text.prefix(200))» is no option: write NAME=VALUE"
    case .unknownOption(let name):
      "there is no option \(name.prefix(100)) for a domain; there are \(DomainOption.names.joined(separator: ", "))"
    case .file(let file, let why): "\(file) cannot be read: \(why)"
    case .line(let file, let number, let why): "\(file), line \(number): \(why)"
    }
  }
}

/// `%XX` for each byte that has a meaning of its own in paths, XML, shells or this project's strings.
enum PercentText {
  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "._-+@:,".utf8.contains(byte)
    }
  }

  static func encode(_ text: String) -> String {
    text.utf8.reduce(into: "") { result, byte in
      if isPlain(byte) {
        result.unicodeScalars.append(Unicode.Scalar(byte))
      } else {
        let digits = String(byte, radix: 16, uppercase: true)
        result += "%" + (digits.count < 2 ? "0" : "") + digits
      }
    }
  }

  /// Nil for what is no such text.
  static func decode(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      if byte != UInt8(ascii: "%") {
        bytes.append(byte)
        continue
      }
      guard let high = rest.popFirst(), let low = rest.popFirst(),
        let value = UInt8(String(decoding: [high, low], as: UTF8.self), radix: 16)
      else { return nil }
      bytes.append(value)
    }
    return String(validating: bytes, as: UTF8.self)
  }
}
