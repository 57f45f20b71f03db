import SystemPackage
import TestSupport

/// The pixels of a PNG of red, green, blue and alpha, read by another program.
struct PNGPixels {
  /// Such as `64x48`.
  let size: String
  /// Of each pixel, row by row, eight hexadecimal digits.
  let values: [String]

  /// The functions that read such a file, and write one in the simplest way that there is.
  private static let functions = """
    import struct, sys, zlib

    def read(path):
        data, at, packed = open(path, "rb").read(), 8, b""
        while at < len(data):
            length, kind = struct.unpack(">I4s", data[at:at + 8])
            body = data[at + 8:at + 8 + length]
            if kind == b"IHDR": width, height, depth, colours = struct.unpack(">IIBB", body[:10])
            if kind == b"IDAT": packed += body
            at += 12 + length
        assert (depth, colours) == (8, 6)
        raw, above, pixels = zlib.decompress(packed), bytes(width * 4), bytearray()
        for y in range(height):
            method, row = raw[y * (width * 4 + 1)], bytearray(raw[y * (width * 4 + 1) + 1:(y + 1) * (width * 4 + 1)])
            for x in range(width * 4):
                a, b, c = row[x - 4] if x > 3 else 0, above[x], above[x - 4] if x > 3 else 0
                p = a + b - c
                paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                row[x] = (row[x] + (0, a, b, (a + b) // 2, paeth)[method]) & 255
            above = row
            pixels += row
        return width, height, pixels

    def write(path, width, height, pixels):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        rows = b"".join(b"\\0" + bytes(pixels[y * width * 4:(y + 1) * width * 4]) for y in range(height))
        open(path, "wb").write(
            b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

    """

  init(_ file: FilePath) throws {
    let words = try Self.run(
      """
      width, height, pixels = read(sys.argv[1])
      print(f"{width}x{height}", *(pixels[at:at + 4].hex() for at in range(0, len(pixels), 4)))
      """, file
    ).split(whereSeparator: \.isWhitespace).map(String.init)
    (size, values) = (words[0], Array(words.dropFirst()))
  }

  /// Writes it anew.
  /// - Parameters:
  ///   - change: in Python, what becomes of `p`, the bytes of its pixels.
  ///   - crop: in Python, which part of that: left, top, width and height.
  static func rewrite(_ file: FilePath, as other: FilePath, change: String, crop: String) throws {
    _ = try run(
      """
      width, height, p = read(sys.argv[1])
      \(change)
      left, top, across, down = \(crop)
      rows = [p[((top + y) * width + left) * 4:((top + y) * width + left + across) * 4] for y in range(down)]
      write(sys.argv[2], across, down, b"".join(rows))
      """, file, other)
  }

  private static func run(_ script: String, _ files: FilePath...) throws -> String {
    let (status, output) = try TestSupport.run(
      "/usr/bin/python3", ["-c", functions + script] + files.map(\.string), withErrors: true)
    guard status == 0 else { throw TroubleInTest(output) }
    return output
  }

  /// As it is in `values`, for an opaque pixel of these colours.
  static func text(_ pixel: UInt32) -> String {
    let digits = String(pixel << 8 | 0xff, radix: 16)
    return String(repeating: "0", count: 8 - digits.count) + digits
  }
}
