import CPNG
import Glibc
import Linux
import Programs
import SystemPackage

/// Images for people.
enum PNG {
  /// Writes an image of bytes red, green, blue and alpha, its rows close together.
  static func write(_ pixels: [UInt8], width: UInt32, height: UInt32, to file: borrowing FD) throws {
    let own = try file.duplicate().relinquish()
    guard let stream = unsafe fdopen(own, "w") else {
      close(own)
      throw Errno.noMemory
    }
    defer { unsafe fclose(stream) }
    var message = [CChar](repeating: 0, count: 64)
    let written = unsafe cpng_write_rgba(stream, width, height, pixels, &message)
    guard written != 0, unsafe fflush(stream) == 0 else {
      let text = message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      throw Trouble("the PNG could not be written: \(String(decoding: text, as: UTF8.self))")
    }
  }
}
