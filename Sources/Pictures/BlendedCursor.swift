package import Scanout

/// A cursor that is drawn into a picture, since the screen has no plane for it.
package struct BlendedCursor: Equatable {
  package var image: CursorImage
  /// Of its upper left pixel, in the scanout's pixels.
  package var position: CursorPosition

  package init(image: CursorImage, position: CursorPosition) {
    (self.image, self.position) = (image, position)
  }
}
