/// A connector, into which a screen is plugged.
package struct KMSConnector: Sendable {
  /// The id of the connector on its card.
  package let id: UInt32
  /// The name in the kernel's logs and in `xrandr`, such as `HDMI-A-1`.
  package let name: String
  /// Whether a screen is plugged in.
  package let isConnected: Bool
  /// The screen's modes in the kernel's order; empty without a screen.
  package let modes: [KMSMode]
  /// The size of the visible area in millimetres; 0 when unknown.
  package let widthMillimetres, heightMillimetres: UInt32
  /// A bit for each CRTC that can drive the connector, by the CRTC's index.
  let possibleCRTCs: UInt32
  /// The id of the CRTC that drives the connector now, or 0.
  let currentCRTC: UInt32

  /// The same connector after its screen is gone.
  var withoutScreen: KMSConnector {
    KMSConnector(
      id: id, name: name, isConnected: false, modes: [], widthMillimetres: 0, heightMillimetres: 0,
      possibleCRTCs: possibleCRTCs, currentCRTC: currentCRTC)
  }

  /// Progressive modes, the preferred one first.
  var usableModes: [KMSMode] {
    modes.filter { $0.isUsable && $0.isPreferred } + modes.filter { $0.isUsable && !$0.isPreferred }
  }
}
