package import Scanout

/// How a scanout looks at a resource: how the image lies in its bytes, and which part of it is shown.
package struct View: Hashable {
  package let layout: FrameLayout
  package let source: Rectangle

  package init(layout: FrameLayout, source: Rectangle) { (self.layout, self.source) = (layout, source) }
}
