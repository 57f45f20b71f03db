/// How the bytes of a pixel of 32 bits are put in another order: each byte of the result is one of the
/// source's, and bits that are always set, as those of an alpha that the source does not have.
package struct PixelShuffle: Equatable, Sendable {
  /// For each byte of the result, the lowest first: which byte of the source, 0 to 3.
  package let order: (UInt8, UInt8, UInt8, UInt8)
  /// Bits of the result that are set whatever the source says.
  package let set: UInt32

  /// Of four places from 0 to 3.
  package init(order: (UInt8, UInt8, UInt8, UInt8), set: UInt32 = 0) {
    precondition(max(order.0, order.1, order.2, order.3) < 4, "a pixel has four bytes")
    (self.order, self.set) = (order, set)
  }

  /// It changes nothing.
  package var isIdentity: Bool { order == (0, 1, 2, 3) && set == 0 }

  /// One pixel, as a little-endian number.
  @inline(__always) package func callAsFunction(_ pixel: UInt32) -> UInt32 {
    let a = pixel >> UInt32(order.0 * 8) & 0xff
    let b = pixel >> UInt32(order.1 * 8) & 0xff
    let c = pixel >> UInt32(order.2 * 8) & 0xff
    let d = pixel >> UInt32(order.3 * 8)
    return a | b << 8 | c << 16 | d << 24 | set
  }

  /// Whole pixels, one behind the other.
  package func callAsFunction(_ bytes: [UInt8]) -> [UInt8] {
    if isIdentity { return bytes }
    var result = bytes
    for start in stride(from: 0, to: bytes.count - 3, by: 4) {
      let pixel = self(bytes[start..<start + 4].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
      for byte in 0..<4 { result[start + byte] = UInt8(truncatingIfNeeded: pixel >> UInt32(8 * byte)) }
    }
    return result
  }

  /// The same places and the same bits.
  package static func == (a: PixelShuffle, b: PixelShuffle) -> Bool { a.order == b.order && a.set == b.set }
}

// Copies from one mapping to another. The source changes while it is read, and what comes over is then a mix
// of old and new bytes, as it is with any screen.
extension Mapping {
  /// Copies `count` bytes from `offset` of `source` to `place`.
  package func copy(_ count: Int, from source: Mapping, at offset: Int, to place: Int) {
    unsafe withBytes(at: place, count) { target in
      unsafe source.withBytes(at: offset, count) { unsafe target.copyMemory(from: $0, byteCount: count) }
    }
  }

  /// Copies `count` pixels of four bytes from `offset` on over those of `pixels` from `place` on, the bytes of each in
  /// another order.
  package func copy(
    pixels count: Int, _ shuffle: PixelShuffle, from offset: Int, to pixels: inout [UInt32], at place: Int
  ) {
    precondition(place >= 0 && count >= 0 && count <= pixels.count - place, "outside the pixels")
    unsafe withBytes(at: offset, count * 4) { source in
      unsafe pixels.withUnsafeMutableBufferPointer { target in
        for index in 0..<count {
          unsafe target[place + index] = shuffle(
            UInt32(littleEndian: source.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self)))
        }
      }
    }
  }

  /// Copies `count` pixels of four bytes, the bytes of each in another order.
  package func copy(
    pixels count: Int, _ shuffle: PixelShuffle, from source: Mapping, at offset: Int, to place: Int
  ) {
    unsafe withBytes(at: place, count * 4) { target in
      unsafe source.withBytes(at: offset, count * 4) { source in
        for index in 0..<count {
          let pixel = unsafe UInt32(
            littleEndian: source.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self))
          unsafe target.storeBytes(of: shuffle(pixel).littleEndian, toByteOffset: index * 4, as: UInt32.self)
        }
      }
    }
  }
}
