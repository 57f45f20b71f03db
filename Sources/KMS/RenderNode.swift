internal import Linux
package import SystemPackage

/// A card's device for drawing, such as `/dev/dri/renderD128`.
package enum RenderNode {
  /// The name of the card's driver in the kernel, such as `amdgpu`. The node is closed again.
  package static func driver(_ path: FilePath) throws(Errno) -> String {
    try DRMFile(FD.open(path, writable: true, nonblocking: true)).driver()
  }
}
