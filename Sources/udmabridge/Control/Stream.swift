import ArgumentParser
import Glibc
import Linux
import Programs
import Streaming
import SystemPackage
import Udmabuf
import Varlink

/// A guest's pictures as the source of GStreamer's pipelines.
struct Stream: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Send what a guest shows to GStreamer.",
    discussion: """
      It takes the place of GStreamer's unixfdsink: a pipeline reads with unixfdsrc, of GStreamer 1.26 (Debian 13). The \
      frames come from the control socket of vhost-user-udmabuf. 16 clients can read at once. A slow client misses \
      frames, and they are counted. The command ends with the helper, or with SIGINT or SIGTERM; each client is told.

        udmabridge stream --control /run/vg.control --to unixfd:/run/vg.stream
        gst-launch-1.0 unixfdsrc socket-path=/run/vg.stream ! videoconvert ! autovideosink
      """)

  @OptionGroup var socket: HelperChoice

  @Option(
    help: ArgumentHelp(
      "unixfd:PATH, the socket to which clients connect. Only this user's processes can (mode 600).",
      valueName: "socket"))
  var to: StreamTarget

  @Option(
    help: ArgumentHelp(
      "What GStreamer is told: memory for plain video, which every element takes, or dmabuf for elements that import dma-bufs in a format of DRM.",
      valueName: "kind"))
  var caps = CapsKind.memory

  @Option(help: ArgumentHelp("Which of the guest's scanouts, from 0 on.", valueName: "number"))
  var scanout = 0

  @OptionGroup var output: OutputOptions

  func validate() throws {
    if scanout < 0 { throw ValidationError("--scanout counts from 0") }
  }

  func run() throws {
    let path = try socket.path()
    // Without a helper no client is to find a socket.
    let watching = try VarlinkClient(path)
    let loop = try EventLoop()
    let signals = try SignalFD([SIGTERM, SIGINT])
    try ignoreWriteSignals()
    try exitOnBusError("udmabridge: memory of the guest became shorter while it was copied\n")
    let streamer = try Streamer(
      watching, path, scanout: scanout, as: caps, to: try listenOn(to.path, mode: 0o600),
      udmabuf: try? UdmabufDevice(), loop: loop, onPicture: { [output] in try? output.print($0, $0.text) },
      onClient: { [output] in try? output.print($0, $0.text) },
      onComplaint: { printError("udmabridge: \($0)") })
    // Another program may have taken the name since.
    let file = try? FileStatus(of: to.path)
    defer {
      streamer.close()
      if let file, let now = try? FileStatus(of: to.path), now.inode == file.inode { removeFile(to.path) }
    }
    let token = try loop.add(signals.fd) { _ in
      _ = signals.next()
      streamer.end()
    }
    defer { loop.remove(token, signals.fd) }
    try streamer.start()
    try loop.run()
    streamer.close()
    try output.print(streamer.counts, streamer.counts.text)
    if let failure = streamer.failure { throw failure }
  }
}

/// Where a stream goes.
struct StreamTarget: ExpressibleByArgument {
  private static let kind = "unixfd:"
  let path: FilePath

  init?(argument: String) {
    guard argument.hasPrefix(Self.kind), argument.count > Self.kind.count else { return nil }
    path = FilePath(String(argument.dropFirst(Self.kind.count)))
  }
}

extension CapsKind: ExpressibleByArgument {}

extension StreamedPicture {
  fileprivate var text: String {
    "scanout \(scanout): \(picture), as \(caps)" + (copied.map { "; copied: \($0)" } ?? "")
  }
}

extension StreamClientCounts {
  fileprivate var text: String {
    "client \(client) (process \(pid)): \(counted(sent, "frame")) sent, \(skipped) skipped, \(overdue) overdue; \(end)"
  }
}

extension StreamCounts {
  fileprivate var text: String {
    "\(counted(frames, "frame")); \(counted(clients, "client")), \(refused) refused: \(sent) sent, \(skipped) skipped, "
      + "\(overdue) overdue; \(copied) copied, \(bytesCopied) bytes"
  }
}
