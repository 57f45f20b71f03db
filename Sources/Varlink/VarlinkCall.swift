internal import FoundationEssentials

/// A method's parameters. All that a caller may name are in `names`; another one is a mistake of the caller's that
/// is told to him, and not passed over.
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
  /// Any number of replies are welcome.
  package let wantsMore: Bool
  /// No reply is.
  package let isOneway: Bool
  /// After the reply the connection is to speak the method's own protocol.
  let wantsUpgrade: Bool
  private let message: Data

  private struct Envelope: Decodable {
    let method: String
    let more, oneway, upgrade: Bool?
  }

  private enum Key: String, CodingKey { case parameters }

  private struct AnyKey: CodingKey {
    let stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  private struct Unknown: Error { let name: String }

  private struct Body<Parameters: VarlinkParameters>: Decodable {
    let parameters: Parameters?

    init(from decoder: any Decoder) throws {
      let object = try decoder.container(keyedBy: Key.self)
      guard object.contains(.parameters), try !object.decodeNil(forKey: .parameters) else {
        parameters = nil
        return
      }
      let given = try object.nestedContainer(keyedBy: AnyKey.self, forKey: .parameters).allKeys
      if let unknown = given.first(where: { !Parameters.names.contains($0.stringValue) }) {
        throw Unknown(name: unknown.stringValue)
      }
      parameters = try object.decode(Parameters.self, forKey: .parameters)
    }
  }

  /// Reads one message, without the NUL at its end; nil if it is no call.
  init?(_ bytes: some Collection<UInt8>) {
    message = Data(bytes)
    guard let envelope = try? JSONDecoder().decode(Envelope.self, from: message) else { return nil }
    method = envelope.method
    wantsMore = envelope.more ?? false
    isOneway = envelope.oneway ?? false
    wantsUpgrade = envelope.upgrade ?? false
  }

  /// The parameters of the method.
  /// - Throws: `InvalidParameter` with the name of one that is missing, unknown, or of the wrong type.
  package func parameters<Parameters: VarlinkParameters>(
    _ type: Parameters.Type = Parameters.self
  ) throws(VarlinkError) -> Parameters {
    do {
      let body = try JSONDecoder().decode(Body<Parameters>.self, from: message)
      if let parameters = body.parameters { return parameters }
      return try JSONDecoder().decode(Parameters.self, from: Data("{}".utf8))
    } catch let error as Unknown {
      throw .invalidParameter(error.name)
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
