internal import Linux
package import SystemPackage

/// What is on a screen: that of the test host, as the machine outside of it sees it, or one that QEMU made a picture of.
package struct Screenshot {
  /// In pixels.
  package let width, height: Int
  /// Three bytes for each pixel.
  package let rgb: [UInt8]

  package init(width: Int, height: Int, rgb: [UInt8]) {
    (self.width, self.height, self.rgb) = (width, height, rgb)
  }

  /// - Parameter head: of a card that has several screens.
  package static func take(head: Int = 0) throws -> Screenshot {
    let directory = try makeTemporaryDirectory()
    defer { removeDirectory(directory) }
    let file = directory.appending("screen.ppm")
    let (status, output) = try run(
      repository.appending("qemu/screenshot"), ["--head", "\(head)", file.string])
    guard status == 0 else { throw TroubleInTest("no screenshot: \(output)") }
    return try Screenshot(file)
  }

  /// Reads a PPM file of QEMU's.
  package init(_ file: FilePath) throws {
    let fd = try FD.open(file, writable: false)
    var bytes: [UInt8] = []
    while case let more = try fd.read(upTo: 1 << 20), !more.isEmpty { bytes += more }
    // P6, width, height, 255, each followed by one blank.
    var fields: [String] = []
    var start = 0
    while fields.count < 4, let end = bytes[start...].firstIndex(where: { $0 == 0x20 || $0 == 0x0a }) {
      fields.append(String(decoding: bytes[start..<end], as: UTF8.self))
      start = end + 1
    }
    guard fields.count == 4, fields[0] == "P6", let width = Int(fields[1]), let height = Int(fields[2]) else {
      throw TroubleInTest("the screenshot is no PPM: \(fields)")
    }
    // QEMU pads each row to a multiple of four bytes, which the format does not know.
    let (row, stride) = (width * 3, (width * 3 + 3) / 4 * 4)
    guard bytes.count - start == stride * height else {
      throw TroubleInTest("\(bytes.count - start) bytes are no screenshot of \(width)x\(height)")
    }
    (self.width, self.height) = (width, height)
    rgb =
      row == stride
      ? Array(bytes[start...])
      : (0..<height).flatMap { bytes[(start + $0 * stride)..<(start + $0 * stride + row)] }
  }
}
