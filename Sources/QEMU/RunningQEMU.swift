internal import Guest
package import Linux
package import SystemPackage

/// A QEMU that runs, and the memory of its guest.
package final class RunningQEMU {
  /// QEMU itself.
  package let process: RunningProcess
  /// Nil if only the process is known.
  package let monitor: (any QEMUMonitor)?
  /// The path of the monitor; nil without one.
  package let monitorPath: FilePath?

  /// Finds it by its monitor.
  /// - Parameter pid: QEMU itself, if another process, such as libvirtd, made the monitor's socket.
  package init(monitor path: FilePath, pid: Int32? = nil) throws(QEMUError) {
    let monitor = try QMPClient(path)
    guard let pid = pid ?? monitor.peer else { throw .noProcess(path) }
    do throws(ProcessError) { process = try RunningProcess(pid) } catch { throw .process(error) }
    (self.monitor, monitorPath) = (monitor, path)
  }

  /// Finds it through a program that has its monitor, such as libvirt.
  /// - Parameter path: the monitor's name in errors.
  package init(monitor: any QEMUMonitor, named path: FilePath, pid: Int32) throws(QEMUError) {
    do throws(ProcessError) { process = try RunningProcess(pid) } catch { throw .process(error) }
    (self.monitor, monitorPath) = (monitor, path)
  }

  /// Finds it by its process, with a monitor that its command line names, or without any.
  ///
  /// - Parameter patience: the time for all questions to its monitors, now and later; nil: without limit.
  /// - Throws: `tooManyMonitors` if none of the tried ones is its own, because any process can call itself QEMU.
  package init(pid: Int32, patience: TimeSpan? = nil) throws(QEMUError) {
    let end = patience.map { .now + $0 } ?? Instant.never
    let arguments: [String]
    do throws(ProcessError) {
      process = try RunningProcess(pid)
      arguments = try process.arguments()
    } catch { throw .process(error) }
    var found: (QMPClient, FilePath)?
    var failure: QEMUError?
    let monitors = QEMUCommandLine(arguments).monitors
    for path in monitors.prefix(Self.mostMonitors) where found == nil {
      if Instant.now >= end {
        failure = failure ?? .busy(path)
        break
      }
      do throws(QEMUError) {
        let client = try QMPClient(path, patience: Self.shortPatience, until: end)
        // The socket of that name may belong to another process by now.
        if client.peer == pid { found = (client, path) }
      } catch { failure = failure ?? error }
    }
    if found == nil, monitors.count > Self.mostMonitors {
      throw .tooManyMonitors(pid, count: monitors.count, tried: Self.mostMonitors)
    }
    if found == nil, case .busy? = failure { throw failure! }
    (monitor, monitorPath) = (found?.0, found?.1)
  }

  /// How long a monitor from the command line may take to greet.
  private static let shortPatience = TimeSpan.seconds(2)
  /// At most this many of them are tried.
  static let mostMonitors = 4

  /// Finds the layout of the guest's memory, and opens its memfds.
  ///
  /// - Throws: `unproven` if there is no monitor and more than one layout is possible.
  package func layout() throws(QEMUError) -> GuestLayout {
    guard let monitor else { return try provenLayout() }
    // PAM registers and hotplug can change the view at any time, so it must be the same before and after.
    var view = try FlatView(try monitor.monitor("info mtree -f"))
    for _ in 0..<5 {
      let layout = try attempt(view, monitor)
      let now = try FlatView(try monitor.monitor("info mtree -f"))
      if let layout, now == view { return layout }
      view = now
    }
    throw .changing
  }

  /// The blocks of its memory, as the monitor lists them; nil without one.
  package func blocks() throws(QEMUError) -> [RAMBlock]? {
    guard let monitor else { return nil }
    return try RAMBlock.list(try monitor.monitor("info ramblock"))
  }

  /// Nil if the view has changed.
  private func attempt(_ view: FlatView, _ monitor: any QEMUMonitor) throws(QEMUError) -> GuestLayout? {
    var places: [UInt64] = []
    for range in view.ranges {
      guard let place = try hostAddress(range.address, monitor) else { return nil }
      places.append(place)
    }
    let map: ProcessMemory
    do throws(ProcessError) { map = try ProcessMemory(process) } catch { throw .process(error) }
    var backings: [GuestBacking] = []
    var known: [ProcessMemory.Place.File: Int] = [:]
    var parts: [LayoutPart] = []
    for (range, place) in zip(view.ranges, places) {
      guard let found = map.place(of: place, length: range.length) else {
        throw .otherProcess(process.pid, monitorPath ?? "", place)
      }
      let file = found.file ?? .none(range.name)
      let index: Int
      if let old = known[file] {
        index = old
      } else {
        index = backings.count
        known[file] = index
        backings.append(GuestBacking(name: range.name, kind: try kind(of: file, map)))
      }
      parts.append(
        LayoutPart(
          address: range.address, length: range.length, isReadOnly: range.isReadOnly, backing: index,
          offset: found.file == nil ? range.offset : found.offset))
    }
    return GuestLayout(backings: backings, parts: parts, source: .monitor)
  }

  private func kind(of file: ProcessMemory.Place.File, _ map: ProcessMemory) throws(QEMUError)
    -> GuestBacking.Kind
  {
    guard case .file(let device, let inode, let path) = file else { return .anonymous }
    guard path.hasPrefix("/memfd:"), let number = process.number(of: map.files, device: device, inode: inode)
    else { return .file(path: path) }
    let fd: FD
    do throws(ProcessError) { fd = try process.descriptor(number) } catch { throw .process(error) }
    // Since it was looked for, QEMU may have closed it, and given its number to another file.
    guard let memfd = try? Memfd(adopting: fd), (memfd.status.device, memfd.status.inode) == (device, inode)
    else {
      throw .changing
    }
    return .memfd(memfd, descriptor: number)
  }

  /// QEMU's address for a guest-physical address; nil if there is no memory.
  private func hostAddress(_ address: GuestAddress, _ monitor: any QEMUMonitor) throws(QEMUError) -> UInt64? {
    // Host virtual address for 0x0 (pc.ram) is 0x7f1587fff000
    let answer = try monitor.monitor("gpa2hva \(address)").filter { !$0.isNewline }
    guard answer.hasPrefix("Host virtual address") else { return nil }
    guard let word = answer.split(separator: " ").last, word.hasPrefix("0x"),
      let place = UInt64(word.dropFirst(2), radix: 16)
    else { throw .unknownForm(answer) }
    return place
  }
}

/// The mappings and the open files of a process.
struct ProcessMemory {
  let files: [OpenFile]
  private let mappings: [ProcessMapping]

  struct Place {
    enum File: Hashable {
      case file(device: UInt64, inode: UInt64, path: String)
      /// Memory without a file, by its name.
      case none(String)
    }
    /// Nil for the process's own memory.
    let file: File?
    let offset: UInt64
  }

  init(_ process: RunningProcess) throws(ProcessError) {
    files = try process.openFiles()
    mappings = try process.mappings()
  }

  /// The part of a file that is mapped at an address; nil unless all of it is mapped in one piece.
  func place(of address: UInt64, length: UInt64) -> Place? {
    let (end, overflow) = address.addingReportingOverflow(length)
    guard !overflow, var index = mappings.firstIndex(where: { $0.start <= address && address < $0.end })
    else {
      return nil
    }
    let first = mappings[index]
    // If QEMU gives advice about a part, or binds it to a node, the kernel lists the mapping in pieces.
    while mappings[index].end < end {
      let (before, next) = (mappings[index], index + 1)
      guard next < mappings.count, mappings[next].start == before.end, mappings[next].inode == first.inode,
        mappings[next].device == first.device, mappings[next].isShared == first.isShared,
        first.inode == 0 || mappings[next].offset == before.offset + (before.end - before.start)
      else { return nil }
      index = next
    }
    if first.inode == 0 || !first.isShared { return Place(file: nil, offset: 0) }
    return Place(
      file: .file(device: first.device, inode: first.inode, path: first.path),
      offset: first.offset + (address - first.start))
  }
}
