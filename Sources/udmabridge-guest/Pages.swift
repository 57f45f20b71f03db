import ArgumentParser
import Glibc
import Linux
import Programs
import SystemPackage

struct Pages: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Pin memory, and print its physical addresses, for a VM without a device of udmabridge.",
    discussion: """
      The command needs root, and a guest kernel with udmabuf. It prints ADDRESS:LENGTH in each line, and the line end after the \
      last. It holds the memory until standard output is closed:

        ssh root@guest udmabridge-guest pages --size 8M | udmabridge create --guest PID - --hold
      """)

  @Option(help: ArgumentHelp("The size of the memory, in whole pages.", valueName: "size"))
  var size: Quantity?

  @Option(help: ArgumentHelp("Fill the memory with the content of this file.", valueName: "path"))
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
    guard wanted > 0, wanted < 1 << 46 else {
      throw Trouble("\(wanted) bytes cannot be pinned: give from 1 byte to less than 64T")
    }
    let size = wholePages(wanted)
    let memfd = try Memfd.create(name: "udmabridge-pages", size: size, seals: [.shrink, .grow, .seal])
    let device: UdmabufDevice
    do throws(Errno) { device = try UdmabufDevice() } catch {
      throw Trouble(
        "\(UdmabufDevice.path) cannot be opened: \(error); the guest's kernel needs CONFIG_UDMABUF (modprobe udmabuf), and this command needs root"
      )
    }
    // From now on the kernel moves none of its pages.
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

  /// Waits until nobody reads standard output any more.
  private func hold() throws {
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT, SIGHUP])
    let signalled = try loop.add(signals.fd) { _ in loop.stop() }
    let output = try FD.copy(ofInherited: 1)
    // A regular file has no reader that could close it.
    let closed = try? loop.add(output, []) { _ in loop.stop() }
    try loop.run()
    loop.remove(signalled, signals.fd)
    if let closed { loop.remove(closed, output) }
  }
}
