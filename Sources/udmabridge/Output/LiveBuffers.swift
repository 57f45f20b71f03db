import LendingProtocol
import Linux
import SystemPackage

/// A process that holds a dma-buf.
struct BufferUser: Encodable, Equatable {
  let pid: Int32
  let program: String
  /// The process's descriptors for the dma-buf.
  var descriptors: [Int32]
  /// How often the process has mapped the dma-buf.
  var mappings: Int

  var text: String {
    let open = descriptors.isEmpty ? nil : "fd " + descriptors.map(String.init).joined(separator: ", ")
    let mapped = mappings == 0 ? nil : counted(mappings, "mapping")
    return "\(printable(program)) (\(pid)): " + [open, mapped].compactMap(\.self).joined(separator: ", ")
  }
}

/// A dma-buf of this host.
struct LiveBuffer: Encodable, Equatable {
  let inode: UInt64
  /// The size in bytes; nil if only a mapping is left and debugfs cannot be read.
  var size: UInt64?
  var exporter: String?
  var name: String?
  /// The ids under which a guest lends it, if that was asked.
  var lentAs: [String]?
  var users: [BufferUser] = []
  /// The devices that are attached to it, from debugfs.
  var devices: [String]?
  /// The kernel's reference count, from debugfs.
  var references: UInt64?

  /// Reads fdinfo: lines of a key, a colon, a tab and a value. The name is the last. Any holder can set the name, and it
  /// may have lines that look like other keys.
  mutating func take(fdinfo text: String) {
    let label = "\nname:\t"
    var lines = text[...]
    if let start = text.firstRange(of: label) {
      lines = text[..<start.lowerBound]
      var name = text[start.upperBound...].unicodeScalars
      if name.last == "\n" { name.removeLast() }
      self.name = String(name)
    }
    for line in lines.split(separator: "\n") {
      let parts = line.split(separator: "\t", maxSplits: 1)
      guard parts.count == 2 else { continue }
      switch parts[0] {
      case "size:": size = UInt64(parts[1])
      case "exp_name:": exporter = String(parts[1])
      default: break
      }
    }
  }

  /// The sum of the sizes in bytes. It stops at the largest number, because a driver may report any size.
  static func size(of buffers: [LiveBuffer]) -> UInt64 {
    buffers.reduce(0) { sum, buffer in
      let (more, overflow) = sum.addingReportingOverflow(buffer.size ?? 0)
      return overflow ? .max : more
    }
  }
}

/// All visible dma-bufs: those that processes have open or mapped, and those that debugfs lists.
struct LiveBuffers: Encodable, Equatable {
  private(set) var buffers: [LiveBuffer]
  /// The number of processes that could not be looked into.
  private(set) var unreadableProcesses = 0
  /// Whether debugfs could be read, which also lists buffers that only the kernel holds.
  let sawKernel: Bool

  /// Looks at every visible process. A dma-buf that comes or goes meanwhile may be missed.
  /// - Parameter inode: only this dma-buf, if one is named.
  init(only inode: UInt64? = nil) {
    var found: [UInt64: LiveBuffer] = [:]
    let kernel = KernelBuffers()
    sawKernel = kernel != nil
    for buffer in kernel?.buffers ?? [] where inode == nil || buffer.inode == inode {
      found[buffer.inode] = buffer
    }
    for pid in processNumbers() {
      do throws(ProcessError) {
        let process = try RunningProcess(pid)
        try Self.look(into: process, only: inode, &found)
      } catch { if case .refused = error { unreadableProcesses += 1 } }
    }
    buffers = found.values.sorted { $0.inode < $1.inode }
  }

  private static func look(
    into process: RunningProcess, only wanted: UInt64?, _ found: inout [UInt64: LiveBuffer]
  ) throws(ProcessError) {
    var users: [UInt64: BufferUser] = [:]
    var program: String?
    func user(_ inode: UInt64, _ change: (inout BufferUser) -> Void) {
      if program == nil { program = try? process.name() }
      change(
        &users[
          inode, default: BufferUser(pid: process.pid, program: program ?? "?", descriptors: [], mappings: 0)]
      )
    }
    for file in try process.openFiles() where file.isDMABuf {
      guard let status = try? FileStatus(of: FilePath("/proc/\(process.pid)/fd/\(file.number)")),
        wanted == nil || status.inode == wanted
      else { continue }
      user(status.inode) { $0.descriptors.append(file.number) }
      if found[status.inode]?.exporter == nil, let text = try? process.text("fdinfo/\(file.number)") {
        found[status.inode, default: LiveBuffer(inode: status.inode)].take(fdinfo: text)
      }
    }
    for mapping in try process.mappings() where mapping.path.hasPrefix("/dmabuf:") {
      if wanted == nil || mapping.inode == wanted { user(mapping.inode) { $0.mappings += 1 } }
    }
    guard process.isRunning else { throw .ended(process.pid) }
    for (inode, user) in users { found[inode, default: LiveBuffer(inode: inode)].users.append(user) }
  }

  /// Notes which dma-bufs are lent. Several lent buffers may be parts of one.
  mutating func tell(_ lent: [BufferFacts]) {
    for index in buffers.indices {
      let ids = lent.filter { $0.inode.map(UInt64.init(clamping:)) == buffers[index].inode }.map(
        \.id.description)
      buffers[index].lentAs = ids.isEmpty ? nil : ids
    }
  }

  mutating func keep(_ isWanted: (LiveBuffer) -> Bool) { buffers.removeAll { !isWanted($0) } }
  mutating func sort(_ isBefore: (LiveBuffer, LiveBuffer) -> Bool) { buffers.sort(by: isBefore) }
}

/// The kernel's own list, which root may read.
struct KernelBuffers {
  static let path: FilePath = "/sys/kernel/debug/dma_buf/bufinfo"
  let buffers: [LiveBuffer]

  init?() {
    guard let text = try? readText(Self.path, upTo: 64 << 20) else { return nil }
    self.init(text)
  }

  /// Size, flags, mode, count, exporter, inode and name, between tabs; then its fences, and under a heading the attached
  /// devices, one in a line.
  init(_ text: String) {
    var buffers: [LiveBuffer] = []
    var isInDevices = false
    for line in text.utf8.split(separator: UInt8(ascii: "\n")).map({ Substring($0) }) {
      let fields = line.split(separator: "\t", omittingEmptySubsequences: false)
      // The kernel pads numbers to eight digits, so a name of 31 bytes cannot imitate such a line.
      if fields.count >= 6, [0, 1, 2, 3, 5].allSatisfy({ fields[$0].utf8.count >= 8 }),
        let size = UInt64(fields[0]), let count = UInt64(fields[3]), let inode = UInt64(fields[5])
      {
        let name = fields.count > 6 && fields[6] != "<none>" ? String(fields[6]) : nil
        buffers.append(
          LiveBuffer(
            inode: inode, size: size, exporter: String(fields[4]), name: name, devices: [], references: count)
        )
        isInDevices = false
      } else if line.hasPrefix("\tAttached Devices"), !buffers.isEmpty {
        // A name may contain such a heading; the last one is the kernel's.
        buffers[buffers.count - 1].devices = []
        isInDevices = true
      } else if isInDevices, fields.count == 2, fields[0].isEmpty {
        buffers[buffers.count - 1].devices?.append(String(fields[1]))
      }
    }
    self.buffers = buffers
  }
}
