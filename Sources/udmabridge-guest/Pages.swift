import ArgumentParser
import Glibc
import Linux
import Programs
import SystemPackage

struct Pages: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Pin memory, and print where it is: for a VM without any device of ours.",
    discussion: """
      As root, in a guest whose kernel has udmabuf. The list is ADDRESS:LENGTH in each line, and then the line end. The memory is \
      held until standard output is closed:

        ssh root@guest udmabridge-guest pages --size 8M | udmabridge create --guest PID - --hold
      """)

  @Option(help: ArgumentHelp("How much: whole pages.", valueName: "size"))
  var size: Quantity?

  @Option(help: ArgumentHelp("A file whose content it has.", valueName: "path"))
  var file: String?

  func validate() throws {
    if size == nil, file == nil { throw ValidationError("how much memory? --size or --file") }
  }

  func run() throws {
    try ignoreWriteSignals()
    let content = try file.map { path in
      do throws(Errno) { return try FileContent(FilePath(path)) } catch {
        throw Trouble("\(path) cannot be read: \(error)")
      }
    }
    let wanted = max(size?.value ?? 0, content?.size ?? 0)
    guard wanted > 0, wanted < 1 << 46 else { throw Trouble("\(wanted) bytes are none, or too many") }
    let size = wholePages(wanted)
    let memfd = try Memfd.create(name: "udmabridge-pages", size: size, seals: [.shrink, .grow, .seal])
    let device: UdmabufDevice
    do throws(Errno) { device = try UdmabufDevice() } catch {
      throw Trouble(
        "\(UdmabufDevice.path) cannot be opened: \(error); the guest's kernel needs CONFIG_UDMABUF (modprobe udmabuf), and this command root"
      )
    }
    // The kernel moves no page of it from now on.
    let pinned = try device.create(MemfdRange(memfd: memfd, offset: 0, length: size))
    if let content { try content.store(in: pinned, at: 0) }
    try print(memfd, Int(size))
    try hold()
    withExtendedLifetime(pinned) {}
  }

  private func print(_ memfd: Memfd, _ size: Int) throws {
    let runs: [PageFrames.Run]
    do throws(Errno) { runs = try PageFrames.runs(of: memfd, size: size) } catch {
      throw Trouble(
        "/proc/self/pagemap does not say where the memory is: \(error)\(error == .notPermitted ? "; run as root, with CAP_SYS_ADMIN" : "")"
      )
    }
    var text = ""
    for run in runs { text += "\(hex(run.address)):\(hex(run.length))\n" }
    text += "end"
    try printLine(text)
  }

  /// Until nobody reads standard output any more.
  private func hold() throws {
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT, SIGHUP])
    let signalled = try loop.add(signals.fd) { _ in loop.stop() }
    let output = try FD.copy(ofInherited: 1)
    // A file is never closed by a reader.
    let closed = try? loop.add(output, []) { _ in loop.stop() }
    try loop.run()
    loop.remove(signalled, signals.fd)
    if let closed { loop.remove(closed, output) }
  }
}
