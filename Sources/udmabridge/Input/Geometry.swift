internal import ArgumentParser
import LendingProtocol
import Linux
import Programs
internal import Scanout

/// How an image lies in memory.
struct GeometryOptions: ParsableArguments {
  @Option(help: ArgumentHelp("The image, in pixels.", valueName: "WxH"))
  var size: PixelSize?

  @Option(help: ArgumentHelp("The pixel format, by DRM's four characters.", valueName: "fourcc"))
  var format = FourCC.xrgb8888

  @Option(
    help: ArgumentHelp(
      "Bytes from the start of one row to the next. By default rows follow without a gap.", valueName: "bytes"
    ))
  var stride: Quantity?

  @Option(help: ArgumentHelp("The offset of the first pixel, in bytes.", valueName: "bytes"))
  var offset = Quantity(0)

  @Option(
    help: ArgumentHelp("How the pixels are arranged (DRM_FORMAT_MOD_*); 0 is linear.", valueName: "number"))
  var modifier = Quantity(0)

  /// The layout from the options; without a size, the one that the buffer's lender gave.
  func layout(of selection: Selection) throws -> FrameLayout {
    guard size == nil, let image = selection.image else { return try layout(memory: selection.size) }
    guard let width = UInt32(exactly: image.width), let height = UInt32(exactly: image.height),
      let fourcc = UInt32(exactly: image.fourcc), let stride = UInt32(exactly: image.stride),
      let offset = UInt32(exactly: image.offset)
    else {
      throw Trouble(
        "the lender's description of the image has impossible numbers; describe it with --size WxH")
    }
    let layout = FrameLayout(
      width: width, height: height, format: FourCC(rawValue: fourcc), stride: stride, offset: offset,
      modifier: UInt64(bitPattern: Int64(image.modifier)))
    guard layout.format.bytesPerPixel.map({ UInt64(width) * $0 <= UInt64(stride) }) ?? false,
      let end = layout.end, end <= selection.size
    else {
      throw Trouble(
        "the image that the lender describes, \(layout), does not fit into \(selection.size) bytes; describe it "
          + "with --size WxH")
    }
    return layout
  }

  /// - Parameter bytes: the size of the memory, which must hold the image.
  func layout(memory bytes: UInt64) throws -> FrameLayout {
    guard let size else { throw Trouble("the image's size is missing: --size WxH") }
    guard let pixel = format.bytesPerPixel else {
      throw Trouble("the format \(format) is not supported; give one of 32 bits, such as XR24, or RG16")
    }
    let row = UInt64(size.width) * pixel
    let wanted = stride?.value ?? row
    guard wanted >= row else {
      throw Trouble("--stride \(wanted) is too small: a row of \(size.width) pixels has \(row) bytes")
    }
    guard let stride = UInt32(exactly: wanted), let offset = UInt32(exactly: offset.value) else {
      throw Trouble("--stride and --offset must be below 4G")
    }
    let layout = FrameLayout(
      width: size.width, height: size.height, format: format, stride: stride, offset: offset,
      modifier: modifier.value)
    guard let end = layout.end, end <= bytes else {
      throw Trouble("an image of \(layout) needs \(layout.end ?? 0) bytes, and the memory has \(bytes)")
    }
    return layout
  }
}

extension FourCC: ExpressibleByArgument {
  public init?(argument: String) {
    let bytes = Array(argument.utf8)
    guard bytes.count == 4, bytes.allSatisfy({ (0x20..<0x7f).contains($0) }) else { return nil }
    self.init(rawValue: bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) })
  }

  public var defaultValueDescription: String { description }
}
