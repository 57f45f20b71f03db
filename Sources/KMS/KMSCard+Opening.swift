internal import Linux
internal import SystemPackage

// Opening, finding and adopting a card.
extension KMSCard {
  /// Opens, finds or adopts the card that `target` names. Only the sink looks at the target's connectors.
  ///
  /// If the card has no DRM master, the kernel makes the process that opens it master. Use `becomeMaster` to be sure.
  /// - Parameter atomic: false to use the legacy calls even where atomic commits work.
  package convenience init(_ target: KMSTarget, atomic: Bool = true) throws(KMSError) {
    switch target.card {
    case .path(let path): try self.init(opening: path, atomic: atomic)
    case .descriptor(let number): try self.init(file: Self.adopt(number), atomic: atomic)
    case .auto: try self.init(file: Self.firstConnected(), atomic: atomic)
    }
  }

  private convenience init(opening path: FilePath, atomic: Bool) throws(KMSError) {
    try self.init(file: (Self.open(path), path.string), atomic: atomic)
  }

  private convenience init(file: (DRMFile, String), atomic: Bool) throws(KMSError) {
    try self.init(file.0, name: file.1, atomic: atomic)
  }

  private static func open(_ path: FilePath) throws(KMSError) -> DRMFile {
    do { return DRMFile(try FD.open(path, writable: true, nonblocking: true)) } catch {
      throw .cannotOpen(card: path.string, error)
    }
  }

  private static func adopt(_ number: CInt) throws(KMSError) -> (DRMFile, String) {
    let name = "fd:\(number)"
    do throws(Errno) {
      let fd = try FD.inherited(number)
      try fd.setNonblocking()
      return (DRMFile(fd), name)
    } catch { throw .cannotOpen(card: name, error) }
  }

  /// The paths of all cards, `/dev/dri/card0` first.
  static func paths() -> [FilePath] {
    // The kernel gives cards the minors 0 to 63, and others only after these are used up.
    (0..<64).map { FilePath("/dev/dri/card\($0)") }.filter {
      do throws(Errno) { _ = try FD.open($0, writable: false) } catch {
        return error != .noSuchFileOrDirectory && error != .operationNotSupportedByDevice
      }
      return true
    }
  }

  private static func firstConnected() throws(KMSError) -> (DRMFile, String) {
    var found: [String] = []
    for path in paths() {
      do throws(KMSError) {
        let file = try open(path)
        guard let resources = try? file.resources(), !resources.crtcs.isEmpty else {
          throw .noModeSetting(card: path.string)
        }
        let connected = resources.connectors.contains { (try? file.connector($0))?.isConnected ?? false }
        if connected { return (file, path.string) }
        throw .nothingConnected(card: path.string)
      } catch { found.append(error.description) }
    }
    throw .noCard(found: found)
  }
}
