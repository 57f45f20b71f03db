package import Scanout

/// A cursor and its place. For a screen without a cursor plane it is drawn into the picture.
package struct PlacedCursor: Equatable {
  package var image: CursorImage
  /// The place of its upper left pixel, in the scanout's pixels.
  package var position: CursorPosition

  package init(image: CursorImage, position: CursorPosition) {
    (self.image, self.position) = (image, position)
  }
}
