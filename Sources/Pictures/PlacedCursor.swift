package import Scanout

/// A cursor and where it is. A screen without a plane for it has it drawn into a picture.
package struct PlacedCursor: Equatable {
  package var image: CursorImage
  /// Of its upper left pixel, in the scanout's pixels.
  package var position: CursorPosition

  package init(image: CursorImage, position: CursorPosition) {
    (self.image, self.position) = (image, position)
  }
}
