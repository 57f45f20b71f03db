import Glibc
import TestSupport

/// A picture that can be computed: what the guest is known to have drawn.
struct Picture {
  let width, height: Int
  /// The pixels of a row as 0x00RRGGBB.
  let row: (_ y: Int) -> [UInt32]

  /// The pattern of the guest's program `draw` for XR24: a number for each pixel, from its place and a seed.
  static func positions(_ width: Int, _ height: Int, seed: UInt32) -> Picture {
    Picture(width: width, height: height) { y in
      let mask = seed &* 0x9e37_79b9
      var value = UInt32(truncatingIfNeeded: y) &* 0x10001 &* 0x0100_0193
      return unsafe [UInt32](unsafeUninitializedCapacity: width) { buffer, count in
        for x in 0..<width {
          unsafe buffer[x] = (value ^ mask) & 0xff_ffff
          value = value &+ 0x0100_0193
        }
        count = width
      }
    }
  }

  /// The SMPTE colour bars, in the colours and proportions that modetest gives them: seven bars over six
  /// ninths of the height, their reverse over one ninth, and below the PLUGE signal.
  static func smpte(_ width: Int, _ height: Int) -> Picture {
    let (grey, yellow, cyan, green): (UInt32, UInt32, UInt32, UInt32) = (
      0xc0c0c0, 0xc0c000, 0x00c0c0, 0x00c000
    )
    let (magenta, red, blue, black): (UInt32, UInt32, UInt32, UInt32) = (
      0xc000c0, 0xc00000, 0x0000c0, 0x131313
    )
    let top = [grey, yellow, cyan, green, magenta, red, blue]
    let middle = [blue, black, magenta, black, cyan, black, grey]
    let bottom: [UInt32] = [0x00214c, 0xffffff, 0x32006a, black, 0x090909, 0x131313, 0x1d1d1d, black]
    let rows = [
      (0..<width).map { top[$0 * 7 / width] },
      (0..<width).map { middle[$0 * 7 / width] },
      (0..<width).map { x in
        if x < width * 5 / 7 { return bottom[x * 4 / (width * 5 / 7)] }
        if x < width * 6 / 7 { return bottom[(x - width * 5 / 7) * 3 / (width / 7) + 4] }
        return bottom[7]
      },
    ]
    return Picture(width: width, height: height) { y in
      y < height * 6 / 9 ? rows[0] : y < height * 7 / 9 ? rows[1] : rows[2]
    }
  }

  /// The first pixel in which `bytes` differs, or nil if none does.
  /// - Parameters:
  ///   - stride: of `bytes`.
  ///   - pixel: the bytes of a pixel.
  func firstDifference(
    in bytes: [UInt8], stride: Int, bytesPerPixel: Int, pixel: (UInt32) -> (UInt8, UInt8, UInt8)
  ) -> String? {
    guard bytes.count >= stride * (height - 1) + width * bytesPerPixel else {
      return "\(bytes.count) bytes are too few for \(width)x\(height)"
    }
    return unsafe bytes.withUnsafeBytes { actual in
      var before: [UInt32] = []
      var expected = [UInt8](repeating: 0, count: width * bytesPerPixel)
      for y in 0..<height {
        let numbers = row(y)
        if numbers != before {
          before = numbers
          unsafe expected.withUnsafeMutableBufferPointer { expected in
            unsafe numbers.withUnsafeBufferPointer { numbers in
              for x in 0..<width {
                let (a, b, c) = unsafe pixel(numbers[x])
                let place = x * bytesPerPixel
                unsafe (expected[place], expected[place + 1], expected[place + 2]) = (a, b, c)
              }
            }
          }
        }
        let start = unsafe actual.baseAddress! + y * stride
        if unsafe expected.withUnsafeBytes({ unsafe memcmp($0.baseAddress!, start, $0.count) }) != 0 {
          for byte in 0..<expected.count where unsafe expected[byte] != actual[y * stride + byte] {
            return unsafe "pixel (\(byte / bytesPerPixel), \(y)), byte \(byte % bytesPerPixel): "
              + "\(actual[y * stride + byte]) instead of \(expected[byte])"
          }
        }
      }
      return nil
    }
  }

  /// Against an image in memory, bytes blue, green, red and one that is zero.
  func firstDifference(inXRGB bytes: [UInt8], stride: Int) -> String? {
    firstDifference(in: bytes, stride: stride, bytesPerPixel: 4) { value in
      (UInt8(value & 0xff), UInt8(value >> 8 & 0xff), UInt8(value >> 16 & 0xff))
    }
  }

  /// Against a screenshot: the upper left part of it, if it is larger.
  func firstDifference(in screenshot: Screenshot) -> String? {
    guard (screenshot.width, screenshot.height) == (width, height) else {
      return "the screen is \(screenshot.width)x\(screenshot.height), not \(width)x\(height)"
    }
    return firstDifference(in: screenshot.rgb, stride: screenshot.width * 3, bytesPerPixel: 3) { value in
      (UInt8(value >> 16 & 0xff), UInt8(value >> 8 & 0xff), UInt8(value & 0xff))
    }
  }
}
