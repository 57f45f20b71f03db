package import SystemPackage

/// Why a card cannot be used at all. `card` is its path, or `fd:N`.
package enum KMSError: Error, Equatable {
  /// The text names no card.
  case malformedTarget(String)
  /// No card has a connected connector; `found` says why each card was passed over.
  case noCard(found: [String])
  case cannotOpen(card: String, Errno)
  /// The card has no mode setting: it is a render-only device, or no DRM device at all.
  case noModeSetting(card: String)
  /// Another process is DRM master; `holder` names it, if the kernel tells.
  case masterHeld(card: String, holder: String?)
  /// The kernel does not let this process be DRM master.
  case masterRefused(card: String, Errno)
  /// `has` lists the card's connectors.
  case noSuchConnector(String, card: String, has: [String])
  case connectorTwice(String)
  /// A card was named more than once, and at least once without connectors.
  case cardTwice(String)
  case nothingConnected(card: String)
  /// More connectors than a guest can have scanouts.
  case tooManyConnectors(count: Int, limit: Int)
  /// No CRTC with a primary plane is left for the connector.
  case noPipe(connector: String, card: String)
  /// A call failed unexpectedly.
  case call(String, card: String, Errno)
}

extension KMSError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .malformedTarget(let text):
      "\"\(text)\" names no KMS card; "
        + "write /dev/dri/cardN[:CONNECTOR[,CONNECTOR...]], auto, or fd:N[:CONNECTOR]"
    case .noCard(let found):
      "no card in /dev/dri has a connected connector"
        + (found.isEmpty ? "; there is no card at all" : ": " + found.joined(separator: "; "))
    case .cannotOpen(let card, .permissionDenied):
      "\(card) may not be opened by this user; join the group that owns it (`video` on most systems)"
    case .cannotOpen(let card, .notPermitted):
      "\(card) may not be opened in this cgroup; if libvirt made it, name the card in cgroup_device_acl of qemu.conf"
    case .cannotOpen(let card, let errno):
      "\(card) cannot be opened: \(errno)"
    case .noModeSetting(let card):
      "\(card) has no mode setting, so it has no screens; choose another card"
    case .masterHeld(let card, let holder):
      "another process is DRM master of \(card)" + (holder.map { ": " + $0 } ?? " (a compositor or X server)")
        + "; end it or switch to another virtual terminal, or pass a lease of a connector as fd:N"
    case .masterRefused(let card, let errno):
      "this process may not become DRM master of \(card): \(errno); run it as root, or be the first to open "
        + "the card, or pass a descriptor that is master as fd:N"
    case .noSuchConnector(let name, let card, let has):
      "\(card) has no connector \(name); it has: \(has.joined(separator: ", "))"
    case .connectorTwice(let name):
      "the connector \(name) is named twice"
    case .cardTwice(let target):
      "the card of \"\(target)\" is named twice; name the connectors each time, or the card once"
    case .nothingConnected(let card):
      "no connector of \(card) has a screen; plug one in, force one with the kernel's video= option, or name the "
        + "connectors to use once they have one"
    case .tooManyConnectors(let count, let limit):
      "\(count) connectors are more than the \(limit) scanouts of a guest; name at most \(limit)"
    case .noPipe(let connector, let card):
      "\(card) has no CRTC with a primary plane left for \(connector); name fewer connectors"
    case .call(let what, let card, let errno):
      "\(card): \(what) failed: \(errno)"
    }
  }
}
