internal import Logging
package import Scanout

extension KMSSink {
  package func setCursor(_ image: CursorImage?, at position: CursorPosition, on scanout: ScanoutID) {
    guard let lane = lane(scanout), let cursor = lane.output.cursor, cursor.isUsable else { return }
    cursor.set(image, at: position)
    start(lane)
  }

  package func moveCursor(to position: CursorPosition, on scanout: ScanoutID) {
    guard let lane = lane(scanout), let cursor = lane.output.cursor, cursor.isUsable else { return }
    cursor.move(to: position)
    start(lane)
  }

  /// Stops offering a cursor if the card has refused it. The guest then draws its cursor itself.
  func noteCursor(_ lane: KMSLane) {
    let index = Int(lane.scanout.rawValue)
    guard outputs[index].hasCursor, let cursor = lane.output.cursor, !cursor.isUsable else { return }
    outputs[index].hasCursor = false
    log.warning("\(card.name) (\(card.driver)) refused the cursor on \(outputs[index].name)")
    tellOutputsSoon()
  }
}
