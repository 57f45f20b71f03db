internal import Scanout

/// The mode in which a screen shows pictures of one size, and their place in it.
struct Setting: Equatable {
  let mode: KMSMode
  /// The place of the picture's upper left pixel, in the mode's pixels.
  let x, y: UInt32

  init(_ mode: KMSMode, x: UInt32 = 0, y: UInt32 = 0) { (self.mode, self.x, self.y) = (mode, x, y) }

  static func == (a: Setting, b: Setting) -> Bool { a.mode.mode == b.mode.mode && a.x == b.x && a.y == b.y }

  /// The settings to try for pictures of `size`, the best first: the screen's modes of exactly that size; a mode
  /// made for it, within the limits of the screen's own modes; the middle of a larger mode.
  ///
  /// - Parameter canTest: whether the card can be asked without showing anything. Otherwise only the screen's own
  ///   modes of exactly that size are safe.
  static func candidates(for size: PixelSize, in modes: [KMSMode], canTest: Bool) -> [Setting] {
    let exact = modes.filter { $0.size == size }.map { Setting($0) }
    guard canTest else { return exact }
    var larger: [KMSMode] = []
    let holding = modes.filter { $0.size.holds(size) && $0.size != size }
    if let smallest = holding.min(by: { $0.size.area < $1.size.area }) { larger.append(smallest) }
    if let preferred = modes.first, preferred.size.holds(size), preferred.size != size,
      preferred.size != larger.first?.size
    {
      larger.append(preferred)
    }
    return exact + [generated(size, in: modes)].compactMap(\.self)
      + larger.map {
        Setting($0, x: ($0.size.width - size.width) / 2, y: ($0.size.height - size.height) / 2)
      }
  }

  /// A mode made for `size`, no wider, higher or faster than the widest, highest and fastest of the screen's own
  /// modes. At a timing that it is not made for, a screen goes dark, or worse.
  private static func generated(_ size: PixelSize, in modes: [KMSMode]) -> Setting? {
    guard let mode = DisplayMode.reducedBlanking(width: size.width, height: size.height),
      modes.contains(where: { $0.mode.hdisplay >= mode.hdisplay }),
      modes.contains(where: { $0.mode.vdisplay >= mode.vdisplay }),
      modes.contains(where: { $0.mode.clock >= mode.clock })
    else { return nil }
    return Setting(KMSMode(generated: mode))
  }

  /// Sizes of canvases for copies of a picture of `size`, the best first: the smallest modes that hold it, the
  /// preferred one, then the largest ones.
  static func canvases(for size: PixelSize, in modes: [DisplayMode]) -> [PixelSize] {
    let sizes = modes.map { PixelSize(width: UInt32($0.hdisplay), height: UInt32($0.vdisplay)) }
    let holding = sizes.filter { $0.holds(size) }.sorted { $0.area < $1.area }
    let others = sizes.prefix(1) + sizes.dropFirst().sorted { $0.area > $1.area }
    var seen: Set<PixelSize> = []
    return (holding + others).filter { seen.insert($0).inserted }
  }

  /// The place of a picture in a canvas. In each direction a smaller picture is centred, and a larger one is cut off
  /// at its right or lower edge.
  static func area(of picture: PixelSize, in canvas: PixelSize) -> Rectangle {
    func place(_ wanted: UInt32, _ room: UInt32) -> (start: UInt32, length: UInt32) {
      wanted < room ? ((room - wanted) / 2, wanted) : (0, room)
    }
    let (across, down) = (place(picture.width, canvas.width), place(picture.height, canvas.height))
    return Rectangle(x: across.start, y: down.start, width: across.length, height: down.length)
  }
}
