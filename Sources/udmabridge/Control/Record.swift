import ArgumentParser
import Linux
import Programs
import Recording
import Scanout
import SystemPackage
import Udmabuf

/// Records what a guest shows, as pictures or as a video.
struct Record: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Record what a guest shows: PNG files, or a video on standard output.",
    discussion: """
      The frames come from the control socket of vhost-user-udmabuf, and are copied when something has changed. The \
      recording ends at the first condition that the options name, with the guest, or at SIGINT or SIGTERM.

        udmabridge record --control /run/vg.control --output pictures --until-still 5 --timeout 300
        udmabridge record --control /run/vg.control --format y4m --for 60 | ffmpeg -i - video.mp4

      The exit status is 0 when a condition was met, 3 after --timeout, and 1 if the guest ended before.
      """)

  enum Form: String, CaseIterable, ExpressibleByArgument {
    case png, y4m, raw

    var video: VideoOutput.Form? { VideoOutput.Form(rawValue: rawValue) }
  }

  @OptionGroup var socket: HelperChoice

  @Option(help: ArgumentHelp("The guest's scanout, counted from 0.", valueName: "number"))
  var scanout = 0

  @Flag(help: "Leave the cursor out.")
  var noCursor = false

  @Option(
    help:
      "png: a picture for each change, and a line of JSON about it on standard output. y4m: a video on standard output, BT.709 4:4:4. raw: a video on standard output, whose pixels are the bytes red, green, blue and 255."
  )
  var format = Form.png

  @Option(
    help: ArgumentHelp(
      "The directory for the PNG files: 000001.png and so on. Without it there are only the lines.",
      valueName: "directory"))
  var output: String?

  @Option(
    help: ArgumentHelp(
      "Pictures per second. A video has exactly this many, by default 30; PNG files are at most this many.",
      valueName: "number"))
  var rate: Int?

  @Option(
    help: ArgumentHelp(
      "The video's size, by default that of the first picture. A smaller picture stands in the middle; of a larger one, the middle is shown.",
      valueName: "WxH"))
  var size: PixelSize?

  @Option(help: ArgumentHelp("End after this many pictures.", valueName: "number"))
  var count: Int?

  @Option(
    name: .customLong("for"),
    help: ArgumentHelp("End this long after the first picture.", valueName: "seconds"))
  var span: Seconds?

  @OptionGroup(title: "What to wait for") var waiting: WaitOptions

  private static let rates = 1...1000

  func validate() throws {
    if let rate, !Self.rates.contains(rate) {
      throw ValidationError("--rate takes \(Self.rates.lowerBound) to \(Self.rates.upperBound)")
    }
    if let count, count < 1 { throw ValidationError("--count \(count) is too small: give 1 or more") }
    if format.video != nil, output != nil {
      throw ValidationError("--format \(format.rawValue) goes to standard output, --output is for PNG files")
    }
    if format == .png, size != nil {
      throw ValidationError("--size belongs to a video (--format y4m or raw)")
    }
    if format == .raw, size == nil {
      throw ValidationError("--format raw needs --size WxH, because raw pictures do not carry their size")
    }
  }

  func run() throws {
    var limits = try waiting.limits()
    guard let form = format.video else {
      let run = try RecordingRun()
      limits.span = span?.span
      let files = try PictureFiles(in: output.map { FilePath($0) }, count: count) { [unowned run] in
        run.end(.count)
      }
      let recorder = try record(to: files, run, interval: rate.map(Self.period) ?? .zero, limits)
      try files.sayEnd(recorder.reason)
      return try waiting.conclude(recorder)
    }
    let file: FD
    // Looked at first: if standard output is closed, another file would get its number.
    do throws(Errno) { file = try FD.copy(ofInherited: 1) } catch { throw Self.unwritable(error) }
    let run = try RecordingRun()
    let rate = rate ?? 30
    let video = try video(form, rate, to: file, run)
    try waiting.conclude(record(to: video, run, interval: Self.period(rate), limits))
  }

  private func video(
    _ form: VideoOutput.Form, _ rate: Int, to file: consuming FD, _ run: RecordingRun
  ) throws -> VideoOutput {
    // A picture for each period of that time, a partial one included.
    let inTime = span.map { Int(($0.span.milliseconds * Int64(rate) + 999) / 1000) }
    var hasSaid = false
    do throws(Errno) {
      return try VideoOutput(
        form, size: size, rate: rate, count: [count, inTime].compactMap(\.self).min(), to: file,
        loop: run.loop, onCount: { [unowned run] in run.end(.count) },
        onFailure: { [unowned run] in run.fail(Self.unwritable($0)) },
        onOtherSize: { picture, size in
          if hasSaid { return }
          hasSaid = true
          printError(
            "udmabridge: the guest shows \(picture), but the video is \(size); --size sets the video's size")
        })
    } catch { throw Self.unwritable(error) }
  }

  private static func unwritable(_ error: any Error) -> Trouble {
    Trouble("standard output cannot be written: \(error)")
  }

  private func record(
    to output: any RecordingOutput, _ run: RecordingRun, interval: TimeSpan, _ limits: RecordingLimits
  ) throws -> Recorder {
    try run.record(
      socket.path(), scanout: scanout, showsCursor: !noCursor, interval: interval, limits: limits, to: output)
  }

  private static func period(_ rate: Int) -> TimeSpan { .nanoseconds(1_000_000_000 / Int64(rate)) }
}
