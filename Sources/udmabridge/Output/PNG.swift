import CPNG
import Glibc
import Linux
import Programs
import Recording
import Scanout
import SystemPackage
import Udmabuf

/// Images for people.
enum PNG {
  /// The limits for reading: the longest side, and the most pixels.
  private static let (longestSide, mostPixels): (UInt32, UInt64) = (1 << 16, 1 << 28)

  /// Writes an image of bytes red, green, blue and alpha, without gaps between rows.
  static func write(_ pixels: [UInt8], width: UInt32, height: UInt32, to file: borrowing FD) throws {
    try unsafe withStream(file, "w") { stream in
      var message = [CChar](repeating: 0, count: 64)
      let written = unsafe cpng_write_rgba(stream, width, height, pixels, &message)
      guard written != 0, unsafe fflush(stream) == 0 else {
        throw Trouble("the PNG could not be written: \(text(message))")
      }
    }
  }

  /// Makes a file for an image, or empties the existing one.
  static func create(_ path: FilePath) throws -> FD {
    do throws(Errno) { return try FD.create(path) } catch {
      throw Trouble("\(path) cannot be written: \(FD.whyNotCreated(error))")
    }
  }

  /// Writes a picture into a file, which is replaced.
  static func write(_ picture: RecordedPicture, toFile path: FilePath) throws {
    let file = try create(path)
    do { try write(picture.bytes, width: picture.size.width, height: picture.size.height, to: file) } catch {
      throw Trouble("\(path): \(error)")
    }
  }

  /// Reads a picture. A pixel without alpha gets 255.
  static func read(_ path: String) throws -> RecordedPicture {
    let file: FD
    do throws(Errno) { file = try FD.open(FilePath(path), writable: false) } catch {
      throw Trouble("\(path) cannot be read: \(error)")
    }
    return try unsafe withStream(file, "r") { stream in
      var (image, message) = (unsafe png_image(), [CChar](repeating: 0, count: 64))
      guard unsafe cpng_begin_reading(&image, stream, &message) != 0 else {
        throw Trouble("\(path) is no PNG that can be read: \(text(message))")
      }
      let (width, height) = unsafe (image.width, image.height)
      guard max(width, height) <= longestSide, UInt64(width) * UInt64(height) <= mostPixels else {
        unsafe png_image_free(&image)
        throw Trouble(
          "\(path) has \(width)x\(height) pixels, but the limits are \(longestSide) for a side and \(mostPixels) for the image; give a smaller one"
        )
      }
      var bytes = [UInt8](repeating: 0, count: Int(width) * Int(height) * 4)
      guard unsafe cpng_read_rgba(&image, &bytes, &message) != 0 else {
        throw Trouble("\(path) is no PNG that can be read: \(text(message))")
      }
      let pixels = stride(from: 0, to: bytes.count, by: 4).map { start in
        (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[start + $1]) << UInt32($1 * 8) }
      }
      return RecordedPicture(PixelSize(width: width, height: height), pixels)
    }
  }

  private static func withStream<Result>(
    _ file: borrowing FD, _ mode: String, _ body: (UnsafeMutablePointer<FILE>) throws -> Result
  ) throws -> Result {
    let own = try file.duplicate().relinquish()
    guard let stream = unsafe fdopen(own, mode) else {
      close(own)
      throw Errno.noMemory
    }
    defer { unsafe fclose(stream) }
    return try unsafe body(stream)
  }

  private static func text(_ message: [CChar]) -> String {
    String(decoding: message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
