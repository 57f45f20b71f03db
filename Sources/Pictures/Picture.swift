package import Scanout

/// A scanout's picture of a resource.
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
