package import Scanout

/// How a scanout looks at a resource: how the image lies in its bytes, and which part of it is shown.
package struct View: Hashable {
  package let layout: FrameLayout
  package let source: Rectangle

  package init(layout: FrameLayout, source: Rectangle) { (self.layout, self.source) = (layout, source) }
}

/// What a scanout shows of a resource.
package enum Picture {
  /// The guest's own pages.
  case lent(Frame)
  /// A copy in memory of the sink.
  case shadow(Shadow)

  package var isLent: Bool { if case .lent = self { true } else { false } }

  package var frame: Frame {
    switch self {
    case .lent(let frame): frame
    case .shadow(let shadow): shadow.frame
    }
  }
}
