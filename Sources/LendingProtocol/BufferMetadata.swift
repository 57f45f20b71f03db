/// A lender's description of a buffer. It is replaced as a whole, and nobody here trusts it.
package struct BufferMetadata: Equatable, Sendable {
  package var image: ImageMetadata?
  /// Free names and values.
  package var values: [String: String]

  package init(image: ImageMetadata? = nil, values: [String: String] = [:]) {
    (self.image, self.values) = (image, values)
  }

  /// Its size against the limit, in bytes: its texts and names, and `ImageMetadata.size` for an image.
  package var size: Int {
    values.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
      + (image.map { ImageMetadata.size + ($0.colorSpace?.utf8.count ?? 0) } ?? 0)
  }
}

/// The layout of an image in a buffer.
package struct ImageMetadata: Equatable, Sendable {
  /// Of its numbers, in bytes.
  static let size = 64

  /// In pixels.
  package var width, height: Int
  /// `DRM_FORMAT_*`
  package var fourcc: Int
  /// Of a row, in bytes.
  package var stride: Int
  /// Of the first pixel, in bytes, from the lent range's start on.
  package var offset: Int
  /// `DRM_FORMAT_MOD_*`, by its bits.
  package var modifier: Int
  package var colorSpace: String?
  /// In nanoseconds of a clock that the lender chooses.
  package var timestamp: Int?

  package init(
    width: Int, height: Int, fourcc: Int, stride: Int, offset: Int = 0, modifier: Int = 0,
    colorSpace: String? = nil, timestamp: Int? = nil
  ) {
    (self.width, self.height, self.fourcc, self.stride) = (width, height, fourcc, stride)
    (self.offset, self.modifier, self.colorSpace, self.timestamp) = (offset, modifier, colorSpace, timestamp)
  }
}
