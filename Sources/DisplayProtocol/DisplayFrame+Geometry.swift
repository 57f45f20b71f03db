package import Scanout

extension DisplayRectangle {
  /// Nil if a number does not fit.
  package var rectangle: Rectangle? {
    guard let x = UInt32(exactly: x), let y = UInt32(exactly: y), let width = UInt32(exactly: width),
      let height = UInt32(exactly: height)
    else { return nil }
    return Rectangle(x: x, y: y, width: width, height: height)
  }

  /// The part inside the frame's image; nil, which means the whole image, if a number does not fit.
  package func clipped(to frame: DisplayFrame) -> Rectangle? {
    rectangle?.clipped(width: UInt32(clamping: frame.width), height: UInt32(clamping: frame.height))
  }
}

extension DisplayFrame {
  /// The image's layout in its buffer, and the shown part of the image; nil if they are not possible. The service is
  /// trusted with its pictures, but not with the memory of this process.
  package var geometry: (layout: FrameLayout, source: Rectangle)? {
    guard let width = UInt32(exactly: width), let height = UInt32(exactly: height),
      let fourcc = UInt32(exactly: fourcc), let stride = UInt32(exactly: stride),
      let offset = UInt32(exactly: offset), modifier == 0, let source = source.rectangle,
      !source.isEmpty, source.fits(width: width, height: height), width < 1 << 16, height < 1 << 16
    else { return nil }
    let layout = FrameLayout(
      width: width, height: height, format: FourCC(rawValue: fourcc), stride: stride, offset: offset)
    guard let end = layout.end, end <= UInt64(clamping: size) else { return nil }
    return (layout, source)
  }
}
