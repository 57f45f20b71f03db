package import Scanout

/// The picture that a recording waits for, or a part of it.
package struct PictureReference {
  /// Fully transparent pixels are not compared.
  package let picture: RecordedPicture
  /// The part of a scanout's picture that is compared; nil for all of it.
  package let region: Rectangle?
  /// Each of a pixel's three colours may differ by this much.
  package let tolerance: UInt32

  /// - Parameter picture: of the whole scanout, or of the region alone.
  /// - Returns: nil if the region neither lies in the picture nor has its size.
  package init?(_ picture: RecordedPicture, region: Rectangle?, tolerance: UInt32) {
    self.tolerance = tolerance
    self.region = region
    guard let region else {
      self.picture = picture
      return
    }
    let size = PixelSize(width: region.width, height: region.height)
    if picture.size == size {
      self.picture = picture
    } else {
      guard region.fits(width: picture.size.width, height: picture.size.height) else { return nil }
      self.picture = RecordedPicture(size, Array(picture.part(region)))
    }
  }

  /// The result of a comparison.
  package enum Comparison: Equatable, CustomStringConvertible {
    case same
    /// The number of pixels that differ by more than the tolerance, and the largest difference of a colour.
    case different(pixels: Int, most: UInt32)
    /// The picture has another size, or the region does not lie in it.
    case otherSize(PixelSize)

    package var description: String {
      switch self {
      case .same: "it is the same"
      case .different(let pixels, let most):
        "\(pixels) \(pixels == 1 ? "pixel differs" : "pixels differ"), by up to \(most) of 255"
      case .otherSize(let size): "it is \(size)"
      }
    }
  }

  package func compare(_ other: RecordedPicture) -> Comparison {
    let part = region ?? picture.bounds
    guard region != nil || other.size == picture.size,
      part.fits(width: other.size.width, height: other.size.height)
    else { return .otherSize(other.size) }
    let others = other.part(part)
    var (count, most): (Int, UInt32) = (0, 0)
    for (wanted, found) in zip(picture.pixels, others) where wanted != found && wanted >> 24 != 0 {
      var difference: UInt32 = 0
      for shift: UInt32 in [0, 8, 16] {
        let (a, b) = (wanted >> shift & 0xff, found >> shift & 0xff)
        difference = max(difference, a > b ? a - b : b - a)
      }
      if difference > tolerance { count += 1 }
      most = max(most, difference)
    }
    return count == 0 ? .same : .different(pixels: count, most: most)
  }
}
