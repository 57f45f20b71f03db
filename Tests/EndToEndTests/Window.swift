import CPNG
import Glibc
import Linux
import SystemPackage
import TestSupport

extension RunningGuest {
  /// What is on the screen of the compositor of `--display gtk`.
  func window() throws -> Screenshot {
    let wayland = directory.appending("wayland")
    let (status, output) = try run(
      "/bin/sh",
      [
        "-c",
        "cd \(directory) && rm -f wayland-screenshot-*.png && XDG_RUNTIME_DIR=\(wayland) WAYLAND_DISPLAY=display "
          + "\(repository.appending("qemu/lib/with-displays")) weston-screenshooter",
      ], withErrors: true)
    guard status == 0,
      let name = directoryEntries(directory).first(where: { $0.hasPrefix("wayland-screenshot-") })
    else { throw TroubleInTest("no screenshot: \(output)") }
    return try readPNG(directory.appending(name))
  }

  private func readPNG(_ file: FilePath) throws -> Screenshot {
    var image = unsafe png_image()
    unsafe image.version = UInt32(PNG_IMAGE_VERSION)
    guard unsafe png_image_begin_read_from_file(&image, file.string) != 0 else {
      throw TroubleInTest("\(file) is no PNG")
    }
    unsafe image.format = PNG_FORMAT_FLAG_COLOR
    let (width, height) = unsafe (Int(image.width), Int(image.height))
    var rgb = [UInt8](repeating: 0, count: width * height * 3)
    guard unsafe png_image_finish_read(&image, nil, &rgb, 0, nil) != 0 else {
      throw TroubleInTest("\(file) cannot be read")
    }
    return Screenshot(width: width, height: height, rgb: rgb)
  }

  /// Compares what is in the window with a picture, until it is there.
  /// - Returns: the first difference that is left, or nil.
  func differenceInWindow(_ picture: Picture) -> String? {
    var difference: String? = "nothing was compared"
    try? waitUntil("the picture is in the window") {
      difference = picture.firstDifference(in: try window())
      return difference == nil
    }
    return difference
  }
}
