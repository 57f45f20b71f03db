package import Scanout

/// A scanout's view of a resource: the layout of the image in its bytes, and the shown part.
package struct View: Hashable {
  package let layout: FrameLayout
  package let source: Rectangle

  package init(layout: FrameLayout, source: Rectangle) { (self.layout, self.source) = (layout, source) }
}
