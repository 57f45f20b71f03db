import ArgumentParser
import DisplayProtocol
import LendingProtocol
import Linux
import Programs
import Scanout
import SystemPackage
import Udmabuf
import Varlink

/// Writes what a guest shows into a file.
struct Snapshot: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Write what a guest shows to a PNG file.",
    discussion: "The picture and the cursor come from the control socket of vhost-user-udmabuf.")

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

  @Argument(help: "The file, which is replaced.")
  var file: String

  func validate() throws {
    if buffer == nil, geometry.size != nil { throw ValidationError("--size is about --buffer ID") }
    if buffer != nil, scanout != 0 || noCursor {
      throw ValidationError("a buffer has neither scanout nor cursor: give --buffer without them")
    }
  }

  func run() throws {
    if let buffer {
      let selection = Selection(try LentMemory(socket.buffers(), buffer, forWriting: false))
      let layout = try geometry.layout(of: selection)
      return try selection.writePNG(layout, to: openOutput())
    }
    let display = try socket.connect()
    var picture = try TakenPicture(display, scanout: scanout)
    if !noCursor { try picture.addCursor(display, scanout: scanout) }
    try PNG.write(
      picture.pixels, width: UInt32(picture.width), height: UInt32(picture.height), to: openOutput())
  }

  private func openOutput() throws -> FD {
    do throws(Errno) { return try FD.create(FilePath(file)) } catch {
      throw Trouble("\(file) cannot be written: \(FD.whyNotCreated(error))")
    }
  }
}

/// The pixels that a scanout shows: red, green, blue, alpha, in rows close together.
private struct TakenPicture {
  let width, height: Int
  private(set) var pixels: [UInt8] = []

  init(_ display: DisplayClient, scanout: Int) throws {
    var reply = try display.call("GetFrame", DisplayRequest(scanout: scanout, hold: true))
    let frame = try reply.decode(DisplayFrameReply.self).frame
    guard let fd = reply.descriptor.take() else { throw Trouble("the service passed no descriptor") }
    guard let (layout, part) = frame.geometry, let end = layout.end,
      let shuffle = (layout.format.opaque ?? layout.format).shuffle(to: .abgr8888)
    else { throw Trouble("a frame of \(frame.width)x\(frame.height) \(frame.format) cannot be read") }
    let source = frame.source
    (width, height) = (Int(part.width), Int(part.height))

    let memory: Memory
    do throws(Errno) { memory = try Memory(fd, frame) } catch {
      throw Trouble("buffer \(frame.buffer) cannot be mapped: \(error)")
    }
    guard memory.mapping.length >= end else {
      throw Trouble("buffer \(frame.buffer) is smaller than its frame")
    }
    for row in source.y..<source.y + source.height {
      let start = Int(layout.offset) + row * Int(layout.stride) + source.x * 4
      memory.mapping.append(to: &pixels, from: start, count: source.width * 4)
    }
    pixels = shuffle(pixels)
  }

  /// A frame's memory, for as long as the CPU reads it.
  private final class Memory {
    let mapping: Mapping
    private let dmabuf: DMABuf?

    init(_ fd: consuming FD, _ frame: DisplayFrame) throws(Errno) {
      switch frame.memory {
      case .memfd:
        mapping = try Memfd(adopting: fd).mapForReading(frame.size)
        dmabuf = nil
      case .dmabuf:
        let dmabuf = try DMABuf(adopting: fd)
        mapping = try dmabuf.map()
        try dmabuf.beginCPUAccess(.read)
        self.dmabuf = dmabuf
      }
    }

    deinit { try? dmabuf?.endCPUAccess(.read) }
  }

  /// Puts the cursor where it is: source over destination, where its colours are multiplied by alpha already.
  mutating func addCursor(_ display: DisplayClient, scanout: Int) throws {
    var reply = try display.call("GetCursor", DisplayRequest(scanout: scanout))
    let cursor = try reply.decode(DisplayCursorReply.self).cursor
    guard let fd = reply.descriptor.take() else { return }
    let side = Int(CursorImage.side)
    let image: [UInt8]
    do throws(Errno) {
      image = try Memfd(adopting: fd).mapForReading(side * side * 4).bytes(at: 0, count: side * side * 4)
    } catch { throw Trouble("the cursor's image cannot be mapped: \(error)") }
    for row in 0..<side {
      for column in 0..<side {
        let (x, y) = (cursor.x &+ column, cursor.y &+ row)
        guard (0..<width).contains(x), (0..<height).contains(y) else { continue }
        let (from, to) = ((row * side + column) * 4, (y * width + x) * 4)
        let through = 255 - Int(image[from + 3])
        for channel in 0..<3 {
          let seen = (Int(pixels[to + channel]) * through + 127) / 255
          pixels[to + channel] = UInt8(min(255, seen + Int(image[from + 2 - channel])))
        }
      }
    }
  }
}
