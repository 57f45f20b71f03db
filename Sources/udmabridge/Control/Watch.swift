import ArgumentParser
import DisplayProtocol
import Glibc
import Linux
import Varlink

/// Prints what a guest shows, as it happens.
struct Watch: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print what a guest shows: outputs, frames and the cursor, until the helper ends.",
    discussion:
      "Each event is one line. The exit status is 0 when the helper ends, and 1 if the connection breaks before."
  )

  @OptionGroup var socket: HelperChoice

  @Flag(help: "Print JSON, an object in each line.")
  var json = false

  @Option(help: ArgumentHelp("End after this many frames.", valueName: "count"))
  var frames: Int?

  func validate() throws {
    if let frames, frames < 1 { throw ValidationError("--frames \(frames) is too small: give 1 or more") }
  }

  func run() throws {
    var left = frames
    try socket.connect().watch { event in
      if json {
        var writer = JSONWriter()
        event.write(to: &writer)
        print(String(decoding: writer.bytes, as: UTF8.self))
      } else {
        for line in event.lines { print(line) }
      }
      // The reader of the lines wants each at once.
      guard fflush(nil) == 0 else { return false }
      if event.event == .frame, let count = left { left = count - 1 }
      return left != 0
    }
  }
}

extension DisplayEvent {
  fileprivate var lines: [String] {
    switch event {
    case .outputs:
      return (outputs ?? []).map { output in
        let modes = output.modes.map { "\($0.width)x\($0.height)" }
        let shown = modes.isEmpty ? "no screen" : modes.prefix(8).joined(separator: " ")
        return "output \(output.scanout)  \(output.name): \(shown)"
      }
    case .frame:
      guard let frame, let damage else { return [] }
      let missed = lost.map { $0 > 0 ? ", \($0) lost" : "" } ?? ""
      return [
        "frame  \(frame.scanout)  \(frame.sequence) in buffer \(frame.buffer) (\(frame.kind.rawValue)), "
          + "\(frame.width)x\(frame.height) \(frame.format), "
          + "changed \(damage.width)x\(damage.height)+\(damage.x)+\(damage.y)\(missed)"
      ]
    case .off: return ["off    \(scanout ?? 0)"]
    case .cursor:
      guard let cursor else { return [] }
      return [
        "cursor \(cursor.scanout)  \(cursor.visible ? "at \(cursor.x),\(cursor.y), image \(cursor.image)" : "hidden")"
      ]
    case .end: return ["end"]
    }
  }
}
