import ArgumentParser
import Linux
import Programs
import Recording
import Scanout

/// The conditions on a guest's screen to wait for.
struct WaitOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "End when the picture and the cursor have not changed for this time.", valueName: "seconds"))
  var untilStill: Seconds?

  @Option(
    help: ArgumentHelp(
      "End when the guest shows this picture. Its fully transparent pixels are not compared.",
      valueName: "png"))
  var untilMatch: String?

  @Option(
    help: ArgumentHelp(
      "The part of the screen that --until-still and --until-match look at. The PNG shows the whole screen, or this part.",
      valueName: "X,Y,WxH"))
  var region: Rectangle?

  @Option(
    help: ArgumentHelp(
      "How much the red, green or blue of a pixel may differ from the PNG, of 255.", valueName: "number"))
  var tolerance: UInt32?

  @Option(
    help: ArgumentHelp("End with status 3 if no condition was met within this time.", valueName: "seconds"))
  var timeout: Seconds?

  /// None of them is given.
  var isEmpty: Bool {
    untilStill == nil && untilMatch == nil && region == nil && tolerance == nil && timeout == nil
  }

  func validate() throws {
    if region != nil, untilStill == nil, untilMatch == nil {
      throw ValidationError("--region belongs to --until-still and --until-match")
    }
    if let tolerance {
      if untilMatch == nil { throw ValidationError("--tolerance belongs to --until-match") }
      if tolerance > 255 { throw ValidationError("--tolerance \(tolerance) is not from 0 to 255") }
    }
  }

  /// Reads the PNG.
  func limits() throws -> RecordingLimits {
    var limits = RecordingLimits()
    (limits.stillness, limits.timeout, limits.region) = (untilStill?.span, timeout?.span, region)
    guard let untilMatch else { return limits }
    let picture = try PNG.read(untilMatch)
    guard let reference = PictureReference(picture, region: region, tolerance: tolerance ?? 0) else {
      throw Trouble(
        "--region \(region?.description ?? "") does not lie in \(untilMatch), which is \(picture.size), and has another size"
      )
    }
    limits.reference = reference
    return limits
  }

  /// Throws the exit status, unless the condition was met.
  func conclude(_ recorder: Recorder) throws {
    let isWaiting = untilStill != nil || untilMatch != nil || recorder.count == 0
    switch recorder.reason {
    case .timeout:
      printError("Error: not within \(timeout?.span ?? .zero): \(missing(recorder))")
      throw ExitCode(3)
    case .ended where isWaiting:
      throw Trouble("vhost-user-udmabuf ended before that: \(missing(recorder))")
    case .stopped where isWaiting:
      throw Trouble("it was stopped before that: \(missing(recorder))")
    default: return
    }
  }

  private func missing(_ recorder: Recorder) -> String {
    if recorder.count == 0 { return "the guest showed nothing" }
    var lines: [String] = []
    if let untilMatch {
      lines.append(
        "no picture was like \(untilMatch)" + (recorder.comparison.map { "; of the last one, \($0)" } ?? ""))
    }
    if let untilStill { lines.append("the picture did not stay the same for \(untilStill.span)") }
    return lines.isEmpty ? "the recording was to be longer" : lines.joined(separator: ", and ")
  }
}
