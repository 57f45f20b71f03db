internal import Linux
package import SystemPackage
package import Udmabuf

/// The memory of a frame's pixels.
package enum FrameMemory {
  /// The guest's own pages.
  case lent(DMABuf)
  /// Memory of the sink, into which this process copies.
  case shadow(any ShadowMemory)
}

/// Memory that a sink allocated, for pixels that this process writes. It is freed with the last reference. Only that sink
/// can show a frame of it.
package protocol ShadowMemory: AnyObject {
  var mapping: Mapping { get }

  /// Whether another process can import the memory, and not only map it.
  var isDMABuf: Bool { get }

  /// A descriptor of the memory for another process, which the caller owns.
  func descriptor() throws(Errno) -> FD

  /// Whether all descriptors of the memory have numbers below `bound`.
  func isBelow(_ bound: Int) -> Bool
}

/// Shadow memory for sinks without special needs: a memfd, sealed so that others can map it too.
package final class MemfdShadow: ShadowMemory {
  package let memfd: Memfd
  package let mapping: Mapping

  package var isDMABuf: Bool { false }

  package func descriptor() throws(Errno) -> FD {
    try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
  }

  package func isBelow(_ bound: Int) -> Bool { memfd.withDescriptor { $0.isBelow(bound) } }

  private init(_ memfd: Memfd, _ mapping: Mapping) { (self.memfd, self.mapping) = (memfd, mapping) }

  /// A canvas of exactly the picture's size, without gaps between rows.
  /// - Throws: `other` when the host has no memory left.
  package static func canvas(
    width: UInt32, height: UInt32, format: FourCC
  ) throws(SinkError) -> Canvas {
    let layout = FrameLayout(width: width, height: height, format: format, stride: width * 4)
    return Canvas(memory: try make(layout), layout: layout, area: layout.bounds)
  }

  /// Memory for an image of this layout, whole pages.
  /// - Throws: `other` when the host has no memory left.
  package static func make(_ layout: FrameLayout) throws(SinkError) -> MemfdShadow {
    do throws(Errno) {
      let memfd = try Memfd.create(
        name: "udmabridge-shadow", size: layout.pages, seals: [.shrink, .grow, .seal])
      let mapping = try memfd.withDescriptor { fd throws(Errno) in
        try Mapping(fd, offset: 0, length: Int(layout.pages), writable: true)
      }
      return MemfdShadow(memfd, mapping)
    } catch {
      throw SinkError(.other, "no memory for a copy of \(layout.width)x\(layout.height) pixels: \(error)")
    }
  }
}
