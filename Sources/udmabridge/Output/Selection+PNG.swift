import Linux
import Programs
import Scanout
import SystemPackage

extension Selection {
  /// Writes the image in the memory as a PNG file.
  /// - Parameter layout: lies in it.
  func writePNG(_ layout: FrameLayout, to file: borrowing FD) throws {
    guard let shuffle = layout.format.shuffle(to: .abgr8888) else {
      throw Trouble(
        "\(layout.format) cannot be written as PNG: give a format of 32 bits, such as XR24 or AB24")
    }
    guard layout.modifier == 0, let end = layout.end else {
      throw Trouble("only linear images can be written as PNG, with --modifier 0")
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Int(end))
    try forEachPiece(upTo: end) { bytes += $0 }
    var pixels: [UInt8] = []
    let (row, rowStride) = (Int(layout.width) * 4, Int(layout.stride))
    pixels.reserveCapacity(row * Int(layout.height))
    for y in 0..<Int(layout.height) {
      let start = Int(layout.offset) + y * rowStride
      pixels += shuffle(Array(bytes[start..<start + row]))
    }
    try PNG.write(pixels, width: layout.width, height: layout.height, to: file)
  }
}
