/// The memory for a copy of a picture, which a sink can show on one scanout, and its layout.
package struct Canvas {
  package let memory: any ShadowMemory
  /// The layout of the whole canvas. It may be larger than the picture, such as a mode of the screen, and have
  /// another format.
  package let layout: FrameLayout
  /// The place of the picture's first pixel, and the size of the part that fits.
  package let area: Rectangle

  package init(memory: any ShadowMemory, layout: FrameLayout, area: Rectangle) {
    precondition(area.fits(width: layout.width, height: layout.height), "the picture lies in its canvas")
    (self.memory, self.layout, self.area) = (memory, layout, area)
  }
}
