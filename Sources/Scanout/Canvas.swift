/// Where a copy of a picture goes: memory of a sink that it can show on one scanout, and how it lies there.
package struct Canvas {
  package let memory: any ShadowMemory
  /// Of all of it. It may be larger than the picture, as a mode of the screen is, and of another format.
  package let layout: FrameLayout
  /// Where the picture's first pixel goes, and how much of the picture there is room for.
  package let area: Rectangle

  package init(memory: any ShadowMemory, layout: FrameLayout, area: Rectangle) {
    precondition(area.fits(width: layout.width, height: layout.height), "the picture lies in its canvas")
    (self.memory, self.layout, self.area) = (memory, layout, area)
  }
}
