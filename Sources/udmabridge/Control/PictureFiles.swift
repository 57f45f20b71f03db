import FoundationEssentials
import Linux
import Programs
import Recording
import Scanout
import SystemPackage
import Udmabuf

/// Pictures as PNG files of one directory, with a line of JSON on standard output about each.
final class PictureFiles: RecordingOutput {
  private struct Line: Encodable {
    enum Event: String, Encodable { case picture, dark, end }

    let event: Event
    /// Seconds since the start of the recording.
    let time: Double
    /// The picture's number, from 1; in the last line, that of the last picture.
    let number: Int
    var width, height: UInt32?
    var file: String?
    var reason: RecordingEnd?
  }

  private let directory: FilePath?
  private let count: Int?
  private let onCount: () -> Void
  private let start = Instant.now
  private var number = 0

  /// - Parameters:
  ///   - directory: is made if it does not exist; nil means no files.
  ///   - onCount: is called after `count` pictures.
  init(in directory: FilePath?, count: Int?, onCount: @escaping () -> Void) throws {
    (self.directory, self.count, self.onCount) = (directory, count, onCount)
    guard let directory else { return }
    do throws(Errno) { try makeDirectory(directory, mode: 0o777) } catch {
      throw Trouble("the directory \(directory) cannot be made: \(error)")
    }
  }

  func show(_ picture: RecordedPicture?, at time: Instant) throws {
    guard let picture else { return try say(.dark, at: time) }
    number += 1
    var name: String?
    if let directory {
      let digits = "\(number)"
      let file = String(repeating: "0", count: max(0, 6 - digits.count)) + digits + ".png"
      let path = directory.appending(file)
      try PNG.write(picture, toFile: path)
      name = file
    }
    try say(.picture, at: time) {
      ($0.width, $0.height, $0.file) = (picture.size.width, picture.size.height, name)
    }
    if number == count { onCount() }
  }

  func finish(at time: Instant, _ done: @escaping () -> Void) { done() }

  /// The last line.
  func sayEnd(_ reason: RecordingEnd?) throws {
    try say(.end, at: .now) { $0.reason = reason }
  }

  private func say(_ event: Line.Event, at time: Instant, _ add: (inout Line) -> Void = { _ in }) throws {
    let milliseconds = (time - start).nanoseconds / 1_000_000
    var line = Line(event: event, time: Double(milliseconds) / 1000, number: number)
    add(&line)
    let text = try jsonText(line, inOneLine: true)
    do throws(Errno) { try printLine(text) } catch {
      throw Trouble("standard output cannot be written: \(error)")
    }
  }
}
