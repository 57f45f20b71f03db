internal import CDRM
internal import Scanout
internal import SystemPackage

/// A connector with the CRTC and the primary plane that feed it.
struct KMSPipe {
  /// The connector's latest state from the kernel.
  var connector: KMSConnector
  /// The id of the CRTC.
  let crtc: UInt32
  /// The CRTC's primary plane.
  let plane: KMSPlane
  /// The CRTC's cursor plane, if it has one.
  let cursor: KMSPlane?
  /// Other connectors (by id) and planes that use this CRTC now. The first mode takes them off it.
  let strayConnectors: [UInt32]
  let strayPlanes: [KMSPlane]

  /// Chooses connectors and gives each its own CRTC and primary plane: if possible, the CRTC that already drives it.
  /// - Parameter names: the connectors' names; they need no screen yet. Empty means all connected ones.
  static func choose(_ names: [String], of card: KMSCard, limit: Int) throws(KMSError) -> [KMSPipe] {
    let connectors = try chosen(names, card, limit)
    let primaries = card.planes.filter { $0.kind == .primary }
    let planes = assign(
      card.crtcs.indices.map { crtc in
        primaries.indices.filter { primaries[$0].possibleCRTCs & bit(crtc) != 0 }
          .sorted { a, _ in primaries[a].currentCRTC == card.crtcs[crtc] }
      })
    // Each CRTC has its own cursor plane. If planes fit every CRTC, the first CRTC gets the first plane, as in the
    // kernel.
    let cursors = assign(
      card.crtcs.indices.map { crtc in
        card.planes.indices.filter {
          card.planes[$0].kind == .cursor && card.planes[$0].possibleCRTCs & bit(crtc) != 0
        }
      })
    let crtcs = assign(
      connectors.map { connector in
        let possible = card.crtcs.indices.filter {
          connector.possibleCRTCs & bit($0) != 0 && planes[$0] != nil
        }
        let isCurrent = { card.crtcs[$0] == connector.currentCRTC }
        return possible.filter(isCurrent) + possible.filter { !isCurrent($0) }
      })
    var pipes: [KMSPipe] = []
    for (connector, index) in zip(connectors, crtcs) {
      guard let index, let plane = planes[index].map({ primaries[$0] }) else {
        throw .noPipe(connector: connector.name, card: card.name)
      }
      let crtc = card.crtcs[index]
      let cursor = cursors[index].map { card.planes[$0] }
      pipes.append(
        KMSPipe(
          connector: connector, crtc: crtc, plane: plane, cursor: cursor,
          strayConnectors: card.connectors.filter { $0.currentCRTC == crtc && $0.id != connector.id }.map(
            \.id),
          strayPlanes: card.planes.filter {
            $0.currentCRTC == crtc && $0.id != plane.id && $0.id != cursor?.id
          }))
    }
    return pipes
  }

  private static func chosen(
    _ names: [String], _ card: KMSCard, _ limit: Int
  ) throws(KMSError) -> [KMSConnector] {
    if card.crtcs.isEmpty { throw .noModeSetting(card: card.name) }
    if names.isEmpty {
      let connected = card.connectors.filter(\.isConnected)
      if connected.isEmpty { throw .nothingConnected(card: card.name) }
      return Array(connected.prefix(limit))
    }
    if names.count > limit { throw .tooManyConnectors(count: names.count, limit: limit) }
    var chosen: [KMSConnector] = []
    for name in names {
      guard let connector = card.connectors.first(where: { $0.name == name }) else {
        throw .noSuchConnector(name, card: card.name, has: card.connectors.map(\.name))
      }
      if chosen.contains(where: { $0.id == connector.id }) { throw .connectorTwice(name) }
      chosen.append(connector)
    }
    return chosen
  }

  private static func bit(_ index: Int) -> UInt32 { index < 32 ? 1 << UInt32(index) : 0 }
}
