import ArgumentParser
import LendingProtocol
import Linux
import Recording
import SystemPackage

/// Writes what a guest shows into a file.
struct Snapshot: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Write what a guest shows to a PNG file.",
    discussion: """
      The picture and the cursor come from the control socket of vhost-user-udmabuf. With --wait the exit status is 3 after \
      --timeout, and 1 if the guest ended before; the file has the last picture then, if there was one.

        udmabridge snapshot --control /run/vg.control --wait --until-still 5 --timeout 300 picture.png
      """)

  @OptionGroup var socket: HelperChoice

  @Option(help: ArgumentHelp("Which of the guest's scanouts, from 0 on.", valueName: "number"))
  var scanout = 0

  @Flag(help: "Leave the cursor out.")
  var noCursor = false

  @Option(
    help: ArgumentHelp(
      "In place of a scanout, a buffer that the guest lends, by its id (udmabridge buffers list).",
      valueName: "id"))
  var buffer: BufferID?

  @OptionGroup(title: "The image in that buffer, where its lender does not say it") var geometry:
    GeometryOptions

  @Flag(help: "Wait until the guest shows a picture.")
  var wait = false

  @OptionGroup(title: "What else to wait for, with --wait") var waiting: WaitOptions

  @Argument(help: "The file, which is replaced.")
  var file: String

  func validate() throws {
    if buffer == nil, geometry.size != nil { throw ValidationError("--size is about --buffer ID") }
    if !wait, !waiting.isEmpty { throw ValidationError("to wait for something, give --wait") }
    if buffer != nil, wait { throw ValidationError("--wait is about a scanout, not about --buffer ID") }
    if buffer != nil, scanout != 0 || noCursor {
      throw ValidationError("a buffer has neither scanout nor cursor: give --buffer without them")
    }
  }

  func run() throws {
    if let buffer {
      let selection = Selection(try LentMemory(socket.buffers(), buffer, forWriting: false))
      let layout = try geometry.layout(of: selection)
      return try selection.writePNG(layout, to: PNG.create(FilePath(file)))
    }
    let path = try socket.path()
    if wait { return try waitForPicture(path) }
    let loop = try EventLoop()
    let reader = try ScanoutReader(path, scanout: scanout, loop: loop)
    try call(loop) { reader.readFrame($0) }
    if !noCursor { try call(loop) { reader.readCursor($0) } }
    if let picture = reader.picture { try PNG.write(picture, toFile: FilePath(file)) }
  }

  private func call(_ loop: EventLoop, _ method: (@escaping ScanoutReader.Answer) -> Void) throws {
    var result: Result<Void, any Error>?
    method { result = $0 }
    while result == nil { try loop.turn() }
    try result?.get()
  }

  /// Whatever ends it, the last picture is in the file.
  private func waitForPicture(_ path: FilePath) throws {
    let limits = try waiting.limits()
    let run = try RecordingRun()
    let last = LastPicture { [unowned run] in if !limits.isWaiting { run.end(.count) } }
    let recorder = try run.record(
      path, scanout: scanout, showsCursor: !noCursor, limits: limits, to: last)
    if let picture = last.picture { try PNG.write(picture, toFile: FilePath(file)) }
    try waiting.conclude(recorder)
  }
}

/// Keeps the last picture.
private final class LastPicture: RecordingOutput {
  private(set) var picture: RecordedPicture?
  private let onPicture: () -> Void

  init(_ onPicture: @escaping () -> Void) { self.onPicture = onPicture }

  func show(_ picture: RecordedPicture?, at time: Instant) {
    guard let picture else { return }
    self.picture = picture
    onPicture()
  }

  func finish(at time: Instant, _ done: @escaping () -> Void) { done() }
}
