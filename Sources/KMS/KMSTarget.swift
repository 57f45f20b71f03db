package import SystemPackage

/// A card and those of its connectors to show on, as a user writes them: `PATH[:CONNECTOR[,CONNECTOR...]]`, `auto`,
/// or `fd:N[:CONNECTOR[,CONNECTOR...]]`.
///
/// A path may contain colons, as in `/dev/dri/by-path`. So the text after the last colon counts as connectors only if
/// it reads like connectors, such as `HDMI-A-1`.
package struct KMSTarget: Equatable, Sendable, CustomStringConvertible {
  package enum Card: Equatable, Sendable {
    /// The first card that has a connected connector.
    case auto
    case path(FilePath)
    /// A descriptor that this process inherited: a lease, or one that a session manager made DRM master.
    case descriptor(CInt)
  }

  package var card: Card
  /// Names of connectors in the order of the scanouts; empty means all connected ones.
  package var connectors: [String]

  package init(_ card: Card, connectors: [String] = []) {
    (self.card, self.connectors) = (card, connectors)
  }

  /// - Throws: `malformedTarget`.
  package init(_ text: String) throws(KMSError) {
    if text == "auto" {
      self.init(.auto)
      return
    }
    var name = text[...]
    var connectors: [String] = []
    if let colon = text.lastIndex(of: ":") {
      let items = text[text.index(after: colon)...].split(separator: ",", omittingEmptySubsequences: false)
      if items.allSatisfy(Self.readsLikeConnector) {
        name = text[..<colon]
        connectors = items.map(String.init)
      }
    }
    if name.hasPrefix("fd:") {
      guard let number = CInt(name.dropFirst(3)), number >= 0 else { throw .malformedTarget(text) }
      self.init(.descriptor(number), connectors: connectors)
    } else {
      guard !name.isEmpty, name.contains("/"), !name.utf8.contains(0) else { throw .malformedTarget(text) }
      self.init(.path(FilePath(String(name))), connectors: connectors)
    }
  }

  private static func readsLikeConnector(_ text: Substring) -> Bool {
    guard let first = text.first, let last = text.last else { return false }
    return first.isASCII && first.isLetter && last.isASCII && last.isNumber
      && text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") }
  }

  package var description: String {
    let name =
      switch card {
      case .auto: "auto"
      case .path(let path): path.string
      case .descriptor(let number): "fd:\(number)"
      }
    return connectors.isEmpty ? name : name + ":" + connectors.joined(separator: ",")
  }
}
