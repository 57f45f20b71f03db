import Linux
import SystemPackage
import Udmabuf

/// Facts about the file behind a descriptor.
struct FileFacts: Encodable {
  enum Kind: String, Encodable {
    case memfd
    case dmabuf = "dma-buf"
    /// A file of tmpfs or hugetlbfs, which has seals as a memfd has.
    case memoryFile = "file in memory"
    case other = "other"
  }

  let kind: Kind
  let inode: UInt64
  /// In bytes.
  let size: UInt64
  /// The kernel's name for it.
  var target: String?
  // For a memfd:
  var seals: [String]?
  var pageSize: UInt64?
  var isHuge: Bool?
  var usable: Bool?
  var reason: String?
  // For a dma-buf:
  var exporter: String?
  var name: String?
  var users: [BufferUser]?
  var unreadableProcesses: Int?

  /// - Parameter fd: adopted, whatever it is.
  init(_ fd: consuming FD, target: String?) throws {
    self.target = target
    let fileKind = (try? fd.fileKind()) ?? .other
    if fileKind == .dmaBuf {
      let dmabuf = try DMABuf(adopting: fd)
      (kind, inode, size) = (.dmabuf, dmabuf.inode, dmabuf.size)
      (exporter, name) = (try? dmabuf.exporter(), try? dmabuf.name())
      return
    }
    let memfd = try Memfd(adopting: fd)
    (inode, size) = (memfd.status.inode, memfd.status.size)
    switch fileKind {
    case .sharedMemory: (pageSize, isHuge) = (systemPageSize, false)
    case .hugePages(let bytes): (pageSize, isHuge) = (bytes, true)
    default: break
    }
    guard let seals = try? memfd.seals(), pageSize != nil else {
      (kind, usable, pageSize, isHuge) = (.other, false, nil, nil)
      reason = "it is not a memfd: only memory from memfd_create can be lent"
      return
    }
    kind = target?.hasPrefix("/memfd:") == true ? .memfd : .memoryFile
    self.seals = seals.names
    do throws(UdmabufError) {
      let length = size / systemPageSize * systemPageSize
      _ = try UdmabufDevice.check(
        CollectionOfOne(MemfdRange(memfd: memfd, offset: 0, length: length)),
        UdmabufLimits(items: 1, bytes: .max))
      usable = true
    } catch {
      usable = false
      switch error {
      case .emptyItem: reason = "it is empty: udmabuf lends whole pages of \(systemPageSize) bytes"
      case .sealMissing where kind == .memoryFile:
        reason =
          "it is a file of tmpfs or hugetlbfs, which cannot have F_SEAL_SHRINK: make a memfd (udmabridge memfd)"
      case .sealMissing(_, let seals) where seals.contains(.seal):
        reason = "F_SEAL_SHRINK is missing, and F_SEAL_SEAL forbids adding it: set it when the memfd is made"
      case .sealMissing: reason = "F_SEAL_SHRINK is missing: its owner can add it (fcntl F_ADD_SEALS)"
      case .sealForbidden: reason = "udmabuf takes no memfd with F_SEAL_WRITE or F_SEAL_FUTURE_WRITE"
      default: reason = "\(error)"
      }
    }
  }

  var text: String {
    var lines: [(String, String)] = [("kind", kind.rawValue)]
    func add(_ name: String, _ value: String?) { if let value { lines.append((name, value)) } }
    add("size", "\(size) bytes" + (size >= 1024 ? " (\(bytes(size)))" : ""))
    add("inode", "\(inode)")
    add("link", target.map(printable))
    add("seals", seals.map { $0.isEmpty ? "none" : $0.joined(separator: ", ") })
    add("pages", pageSize.map { bytes($0) + (isHuge == true ? ", huge" : "") })
    add("exporter", exporter)
    if kind == .dmabuf { add("name", name.map(printable) ?? "none") }
    add("udmabuf", usable.map { $0 ? "can use it" : "cannot use it: \(reason ?? "")" })
    for user in users ?? [] { add("user", user.text) }
    if let unreadableProcesses, unreadableProcesses > 0 {
      add(
        "unseen",
        "\(counted(unreadableProcesses, "process", "processes")) could not be looked into; run as root to see all of them"
      )
    }
    let width = lines.map(\.0.count).max() ?? 0
    return lines.map { $0.0 + String(repeating: " ", count: width - $0.0.count + 2) + $0.1 }.joined(
      separator: "\n")
  }
}

extension Seals {
  /// The names behind `F_SEAL_` in small letters, as `memfd --seal` takes them.
  var names: [String] { SealName.allCases.filter { contains($0.seal) }.map(\.rawValue) }
}
