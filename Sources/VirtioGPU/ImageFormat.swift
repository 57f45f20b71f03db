internal import Scanout

extension Resource {
  /// The layout of an image in a resource, from a command's fields.
  /// - Parameters:
  ///   - format: of `enum virtio_gpu_formats`.
  ///   - stride, offset: in bytes.
  ///   - command: its name, for people.
  static func image(
    _ width: UInt32, _ height: UInt32, _ format: UInt32, stride: UInt32, offset: UInt32 = 0,
    for command: @autoclosure () -> String
  ) throws(Mistake) -> FrameLayout {
    guard let fourcc = formats[format] else {
      let known = formats.keys.sorted().map(String.init).joined(separator: ", ")
      throw Mistake(
        .invalidParameter, .format, "\(command()): format \(format) is unknown; virtio-gpu has \(known)")
    }
    // KMS can show sides of 16 bits, which keep every size far inside 64 bits.
    guard (1...65535).contains(width), (1...65535).contains(height) else {
      throw Mistake(
        .invalidParameter, .size, "\(command()): \(width)x\(height) pixels; the limit is 65535x65535")
    }
    guard stride >= width * 4 else {
      throw Mistake(
        .invalidParameter, .stride,
        "\(command()): a row of \(width) pixels does not fit into a stride of \(stride) bytes")
    }
    return FrameLayout(width: width, height: height, format: fourcc, stride: stride, offset: offset)
  }

  /// The virtio formats (virtio 1.3, 5.7.6.8: `enum virtio_gpu_formats`), named by the order of bytes in memory,
  /// and what DRM calls the same.
  static let formats: [UInt32: FourCC] = [
    1: .argb8888,  // B8G8R8A8_UNORM
    2: .xrgb8888,  // B8G8R8X8_UNORM
    3: .bgra8888,  // A8R8G8B8_UNORM
    4: .bgrx8888,  // X8R8G8B8_UNORM
    67: .abgr8888,  // R8G8B8A8_UNORM
    68: .rgbx8888,  // X8B8G8R8_UNORM
    121: .rgba8888,  // A8B8G8R8_UNORM
    134: .xbgr8888,  // R8G8B8X8_UNORM
  ]
}
