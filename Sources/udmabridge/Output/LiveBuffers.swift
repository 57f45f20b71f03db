import LendingProtocol
import Linux
import SystemPackage

/// A process that holds a dma-buf.
struct BufferUser: Encodable, Equatable {
  let pid: Int32
  let program: String
  /// The numbers under which it has the dma-buf open.
  var descriptors: [Int32]
  /// How many mappings of it the process has.
  var mappings: Int

  var text: String {
    let open = descriptors.isEmpty ? nil : "fd " + descriptors.map(String.init).joined(separator: ", ")
    let mapped = mappings == 0 ? nil : counted(mappings, "mapping")
    return "\(printable(program)) (\(pid)): " + [open, mapped].compactMap(\.self).joined(separator: ", ")
  }
}

/// A dma-buf that lives on this host.
struct LiveBuffer: Encodable, Equatable {
  let inode: UInt64
  /// In bytes; nil where only a mapping of it is left, and debugfs may not be read.
  var size: UInt64?
  var exporter: String?
  var name: String?
  /// The ids under which a guest lends it, if that was asked.
  var lentAs: [String]?
  var users: [BufferUser] = []
  /// The devices that have it attached, by debugfs.
  var devices: [String]?
  /// How many references the kernel counts, by debugfs.
  var references: UInt64?

  /// Takes what fdinfo says: lines of a key, a colon and a tab. The name is the last, and is whatever somebody with the
  /// dma-buf has called it, lines of other keys too.
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

  /// Of all of them, in bytes; the largest number where that is more: a driver may say any size.
  static func size(of buffers: [LiveBuffer]) -> UInt64 {
    buffers.reduce(0) { sum, buffer in
      let (more, overflow) = sum.addingReportingOverflow(buffer.size ?? 0)
      return overflow ? .max : more
    }
  }
}

/// All dma-bufs that can be seen: what processes have open or mapped, and what debugfs lists.
struct LiveBuffers: Encodable, Equatable {
  private(set) var buffers: [LiveBuffer]
  /// Processes that could not be looked into.
  private(set) var unreadableProcesses = 0
  /// debugfs could be read: buffers that only the kernel holds are listed too.
  let sawKernel: Bool

  /// Looks at every process that can be seen. What comes and goes meanwhile may be missed.
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

  /// Says which of them are lent: several buffers may be parts of one.
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
      // The kernel fills numbers up to eight digits. A name, of 31 bytes, has no room for such a line.
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
        // A name may have had such a heading in it: the last one is the kernel's.
        buffers[buffers.count - 1].devices = []
        isInDevices = true
      } else if isInDevices, fields.count == 2, fields[0].isEmpty {
        buffers[buffers.count - 1].devices?.append(String(fields[1]))
      }
    }
    self.buffers = buffers
  }
}
