internal import FoundationEssentials

/// A method's parameters. `names` has all that a caller may use; any other one is answered with an error.
package protocol VarlinkParameters: Decodable {
  static var names: [String] { get }
}

extension EmptyObject: VarlinkParameters {
  package static var names: [String] { [] }
}

/// A call of a method, as it was received.
package struct VarlinkCall {
  /// `org.example.Interface.Method`
  package let method: String
  /// Whether the caller takes any number of replies.
  package let wantsMore: Bool
  /// Whether the caller wants no reply.
  package let isOneway: Bool
  /// Whether the connection is to speak the method's own protocol after the reply.
  let wantsUpgrade: Bool
  /// Of the parameters; nil if there are none.
  private let decoder: (any Decoder)?

  private struct Envelope: Decodable {
    let method: String
    let more, oneway, upgrade: Bool?
    let parameters: (any Decoder)?

    private enum CodingKeys: String, CodingKey { case method, more, oneway, upgrade, parameters }

    init(from decoder: any Decoder) throws {
      let fields = try decoder.container(keyedBy: CodingKeys.self)
      method = try fields.decode(String.self, forKey: .method)
      more = try fields.decodeIfPresent(Bool.self, forKey: .more)
      oneway = try fields.decodeIfPresent(Bool.self, forKey: .oneway)
      upgrade = try fields.decodeIfPresent(Bool.self, forKey: .upgrade)
      let isGiven = try fields.contains(.parameters) && !fields.decodeNil(forKey: .parameters)
      parameters = try isGiven ? fields.superDecoder(forKey: .parameters) : nil
    }
  }

  /// Reads one message, without the NUL at its end; nil if it is not a call.
  init?(_ bytes: some Collection<UInt8>) {
    guard let envelope = try? JSONDecoder().decode(Envelope.self, from: Data(bytes)) else { return nil }
    method = envelope.method
    wantsMore = envelope.more ?? false
    isOneway = envelope.oneway ?? false
    wantsUpgrade = envelope.upgrade ?? false
    decoder = envelope.parameters
  }

  /// The parameters of the method.
  /// - Throws: `InvalidParameter` with the name of one that is missing, unknown, or of the wrong type.
  package func parameters<Parameters: VarlinkParameters>(
    _ type: Parameters.Type = Parameters.self
  ) throws(VarlinkError) -> Parameters {
    do {
      guard let decoder else { return try JSONDecoder().decode(Parameters.self, from: Data("{}".utf8)) }
      let given = try decoder.container(keyedBy: AnyKey.self).allKeys
      if let unknown = given.first(where: { !Parameters.names.contains($0.stringValue) }) {
        throw VarlinkError.invalidParameter(unknown.stringValue)
      }
      return try Parameters(from: decoder)
    } catch let error as VarlinkError {
      throw error
    } catch let error as DecodingError {
      throw .invalidParameter(error.path.last ?? "parameters")
    } catch { throw .invalidParameter("parameters") }
  }

  /// The two halves of the method's name, at its last dot.
  var parts: (interface: String, method: String)? {
    guard let dot = method.lastIndex(of: ".") else { return nil }
    return (String(method[..<dot]), String(method[method.index(after: dot)...]))
  }
}

/// Any name in an object.
package struct AnyKey: CodingKey {
  package let stringValue: String
  package var intValue: Int? { nil }
  package init(stringValue: String) { self.stringValue = stringValue }
  package init?(intValue: Int) { nil }
}

extension DecodingError {
  /// The names of the fields that lead to the one that it is about. Foundation does not say where a number is that does not
  /// fit: there are none then.
  package var path: [String] {
    let path: [any CodingKey] =
      switch self {
      case .keyNotFound(let key, let context): context.codingPath + [key]
      case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
        context.codingPath
      @unknown default: []
      }
    return path.map(\.stringValue)
  }
}
