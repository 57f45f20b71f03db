internal import Linux
public import SystemPackage

/// A card's other device, by which programs draw: `/dev/dri/renderD128`.
public enum RenderNode {
  /// The name of the card's driver in the kernel, such as `amdgpu`. The node is closed again.
  public static func driver(_ path: FilePath) throws(Errno) -> String {
    try DRMFile(FD.open(path, writable: true, nonblocking: true)).driver()
  }
}
