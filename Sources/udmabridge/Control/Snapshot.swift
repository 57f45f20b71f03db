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
      The picture and the cursor come from the control socket of vhost-user-udmabuf. With --wait, the exit status is 3 after \
      --timeout, and 1 if the guest ended before. The file then has the last picture, if there was one.

        udmabridge snapshot --control /run/vg.control --wait --until-still 5 --timeout 300 picture.png
      """)

  @OptionGroup var socket: HelperChoice

  @Option(help: ArgumentHelp("The guest's scanout, counted from 0.", valueName: "number"))
  var scanout = 0

  @Flag(help: "Leave the cursor out.")
  var noCursor = false

  @Option(
    help: ArgumentHelp(
      "A buffer that the guest lends, by its id (udmabridge buffers list), in place of a scanout.",
      valueName: "id"))
  var buffer: BufferID?

  @OptionGroup(title: "The image in that buffer, if its lender does not describe it") var geometry:
    GeometryOptions

  @Flag(help: "Wait until the guest shows a picture.")
  var wait = false

  @OptionGroup(title: "What else to wait for, with --wait") var waiting: WaitOptions

  @Argument(help: "The file to write; an existing one is replaced.")
  var file: String

  func validate() throws {
    if buffer == nil, geometry.size != nil { throw ValidationError("--size belongs to --buffer ID") }
    if !wait, !waiting.isEmpty { throw ValidationError("to wait for something, give --wait") }
    if buffer != nil, wait { throw ValidationError("--wait belongs to a scanout, not to --buffer ID") }
    if buffer != nil, scanout != 0 || noCursor {
      throw ValidationError("a buffer has neither scanout nor cursor: leave --scanout and --no-cursor out")
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

  /// Waits, and writes the last picture into the file, whatever ended the wait.
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
