internal import FoundationEssentials
package import Lending
package import LendingProtocol
package import Linux
internal import Varlink

/// A command of the guest's agent, from one line. All numbers are within the limits of docs/port.md.
package struct PortCommand: Equatable {
  package let id: Int
  package let action: PortAction

  /// A line that is not a command, or whose fields are wrong.
  package struct Refusal: Error, Equatable {
    /// Of the command, if it could be read.
    package let id: Int?
    package let error: PortError
    /// Whether it should have begun a session.
    package let isHello: Bool
  }

  /// Reads one line, with or without the newline at its end.
  package static func read(_ line: [UInt8]) throws(Refusal) -> PortCommand {
    do { return try JSONDecoder().decode(PortCommand.self, from: Data(line)) } catch {
      throw error as? Refusal ?? Refusal(id: nil, error: notACommand, isHello: false)
    }
  }

  private static let notACommand = PortError(.notACommand, "the line is not a JSON object with execute")
}

package enum PortAction: Equatable {
  /// Begins a session, whose name the answer repeats.
  case hello(session: String)
  case prove(resource: UInt32, secret: [UInt8])
  case lend(LendingRequest, of: ResourcePlace, lender: Int)
  case setMetadata(BufferMetadata, BufferID, lender: Int)
  case takeBack(BufferID, lender: Int, delay: TimeSpan, patience: TimeSpan)
  case endLender(Int)
  case beginAccess(AccessMode, BufferID, lender: Int)
  case endAccess(BufferID, lender: Int)

  /// The version of the protocol.
  static let version = 1
}

extension PortCommand: Decodable {
  private enum CodingKeys: String, CodingKey, CaseIterable { case execute, arguments, id }

  package init(from decoder: any Decoder) throws {
    let line = try decoder.container(keyedBy: CodingKeys.self)
    let name = try line.decode(String.self, forKey: .execute)
    let isHello = name == "hello"
    var id: Int?
    do {
      let number = try line.number(.id, in: exactNumbers)
      id = number
      _ = try decoder.fields(CodingKeys.self)
      guard let read = PortAction.readers[name] else {
        throw PortError(.commandNotFound, "there is no command \(name)")
      }
      guard line.contains(.arguments) else {
        throw DecodingError.keyNotFound(CodingKeys.arguments, .init(codingPath: [], debugDescription: ""))
      }
      (self.id, action) = (number, try read(try line.superDecoder(forKey: .arguments)))
    } catch let error as PortError {
      throw Refusal(id: id, error: error, isHello: isHello)
    } catch let error as DecodingError {
      throw Refusal(id: id, error: PortError(error, in: name), isHello: isHello)
    }
  }
}

// MARK: The arguments of each command

extension PortAction {
  fileprivate static let readers: [String: @Sendable (any Decoder) throws -> PortAction] = [
    "hello": hello, "prove": prove, "lend": lend, "setMetadata": setMetadata, "return": takeBack,
    "endLender": endLender, "beginAccess": beginAccess, "endAccess": endAccess,
  ]

  private enum HelloKeys: String, CodingKey, CaseIterable { case version, session }

  private static func hello(_ decoder: any Decoder) throws -> PortAction {
    // Another version may have other fields.
    let version = try decoder.container(keyedBy: HelloKeys.self).number(.version, in: exactNumbers)
    if version != Self.version {
      throw PortError(
        .wrongVersion, "the helper speaks version \(Self.version) of the protocol, not \(version)")
    }
    let session: String = try decoder.fields(HelloKeys.self).value(.session)
    guard hexBytes(session, count: 16) != nil else {
      throw DecodingError.wrong(HelloKeys.session, "it must have 32 lower-case hexadecimal digits")
    }
    return .hello(session: session)
  }

  private enum ProveKeys: String, CodingKey, CaseIterable { case resource, secret }

  private static func prove(_ decoder: any Decoder) throws -> PortAction {
    let fields = try decoder.fields(ProveKeys.self)
    let resource = try fields.number(.resource, in: resources)
    guard let secret = hexBytes(try fields.value(.secret), count: 32) else {
      throw DecodingError.wrong(ProveKeys.secret, "it must have 64 lower-case hexadecimal digits")
    }
    return .prove(resource: UInt32(resource), secret: secret)
  }

  private enum LendKeys: String, CodingKey, CaseIterable {
    case device, epoch, resource, lender, offset, size, use, metadata, to
  }

  private static func lend(_ decoder: any Decoder) throws -> PortAction {
    let fields = try decoder.fields(LendKeys.self)
    let place = ResourcePlace(
      device: try fields.number(.device, in: exactNumbers),
      epoch: UInt64(try fields.number(.epoch, in: exactNumbers)),
      resource: UInt32(try fields.number(.resource, in: resources)))
    let audiences: [String] = try fields.optionalValue(.to) ?? []
    if audiences.count > LendingLimits.audiences {
      throw DecodingError.wrong(LendKeys.to, "it may have at most \(LendingLimits.audiences) names")
    }
    let request = LendingRequest(
      offset: UInt64(try fields.number(.offset, in: exactNumbers)),
      size: UInt64(try fields.number(.size, in: 1...exactNumbers.upperBound)),
      use: try fields.optionalValue(.use, as: String.self) == nil ? .read : fields.choice(.use),
      audiences: audiences,
      metadata: try fields.optionalValue(.metadata) ?? BufferMetadata())
    return .lend(request, of: place, lender: try fields.number(.lender, in: exactNumbers))
  }

  private enum MetadataKeys: String, CodingKey, CaseIterable { case buffer, lender, metadata }

  private static func setMetadata(_ decoder: any Decoder) throws -> PortAction {
    let fields = try decoder.fields(MetadataKeys.self)
    return .setMetadata(
      try fields.value(.metadata), try fields.value(.buffer),
      lender: try fields.number(.lender, in: exactNumbers))
  }

  private enum ReturnKeys: String, CodingKey, CaseIterable { case buffer, lender, delay, patience }

  private static func takeBack(_ decoder: any Decoder) throws -> PortAction {
    let fields = try decoder.fields(ReturnKeys.self)
    let delay = try fields.optionalNumber(.delay, in: 0...86_400_000) ?? 0
    let patience = try fields.optionalNumber(.patience, in: 0...3_600_000) ?? 1000
    return .takeBack(
      try fields.value(.buffer), lender: try fields.number(.lender, in: exactNumbers),
      delay: .milliseconds(Int64(delay)), patience: .milliseconds(Int64(patience)))
  }

  private enum LenderKeys: String, CodingKey, CaseIterable { case lender }

  private static func endLender(_ decoder: any Decoder) throws -> PortAction {
    .endLender(try decoder.fields(LenderKeys.self).number(.lender, in: exactNumbers))
  }

  private enum BeginKeys: String, CodingKey, CaseIterable { case buffer, lender, mode }

  private static func beginAccess(_ decoder: any Decoder) throws -> PortAction {
    let fields = try decoder.fields(BeginKeys.self)
    return .beginAccess(
      try fields.choice(.mode), try fields.value(.buffer),
      lender: try fields.number(.lender, in: exactNumbers))
  }

  private enum EndKeys: String, CodingKey, CaseIterable { case buffer, lender }

  private static func endAccess(_ decoder: any Decoder) throws -> PortAction {
    let fields = try decoder.fields(EndKeys.self)
    return .endAccess(try fields.value(.buffer), lender: try fields.number(.lender, in: exactNumbers))
  }

  private static let resources = 1...Int(UInt32.max)
}

extension DecodingError {
  fileprivate static func wrong(_ key: any CodingKey, _ text: String) -> DecodingError {
    .dataCorrupted(.init(codingPath: [key], debugDescription: text))
  }
}

extension KeyedDecodingContainer {
  /// One of a few words.
  fileprivate func choice<Value: RawRepresentable<String> & CaseIterable>(_ key: Key) throws -> Value {
    guard let value = Value(rawValue: try value(key)) else {
      let words = Value.allCases.map(\.rawValue).joined(separator: ", ")
      throw DecodingError.wrong(key, "it must be one of \(words)")
    }
    return value
  }
}

/// The bytes of a text with two lower-case digits for each; nil for any other text, or another number of bytes.
private func hexBytes(_ text: String, count: Int) -> [UInt8]? {
  let digits = Array(text.utf8)
  guard digits.count == 2 * count else { return nil }
  func value(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    default: nil
    }
  }
  var bytes: [UInt8] = []
  for index in 0..<count {
    guard let high = value(digits[2 * index]), let low = value(digits[2 * index + 1]) else { return nil }
    bytes.append(high << 4 | low)
  }
  return bytes
}
