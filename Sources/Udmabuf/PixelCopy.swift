/// A new order for the bytes of a pixel of 32 bits. Each byte of the result is a byte of the source, or has bits that
/// are always set, such as an alpha that the source lacks.
package struct PixelShuffle: Equatable, Sendable {
  /// The source's byte (0 to 3) for each byte of the result, the lowest first.
  package let order: (UInt8, UInt8, UInt8, UInt8)
  /// Bits that are always set in the result.
  package let set: UInt32

  /// Takes four places from 0 to 3.
  package init(order: (UInt8, UInt8, UInt8, UInt8), set: UInt32 = 0) {
    precondition(max(order.0, order.1, order.2, order.3) < 4, "a pixel has four bytes")
    (self.order, self.set) = (order, set)
  }

  /// Whether it changes nothing.
  package var isIdentity: Bool { order == (0, 1, 2, 3) && set == 0 }

  /// One pixel, as a little-endian number.
  @inline(__always) package func callAsFunction(_ pixel: UInt32) -> UInt32 {
    let a = pixel >> UInt32(order.0 * 8) & 0xff
    let b = pixel >> UInt32(order.1 * 8) & 0xff
    let c = pixel >> UInt32(order.2 * 8) & 0xff
    let d = pixel >> UInt32(order.3 * 8)
    return a | b << 8 | c << 16 | d << 24 | set
  }

  /// Shuffles whole pixels, one behind the other.
  package func callAsFunction(_ bytes: [UInt8]) -> [UInt8] {
    if isIdentity { return bytes }
    var result = bytes
    for start in stride(from: 0, to: bytes.count - 3, by: 4) {
      let pixel = self(bytes[start..<start + 4].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
      for byte in 0..<4 { result[start + byte] = UInt8(truncatingIfNeeded: pixel >> UInt32(8 * byte)) }
    }
    return result
  }

  /// Whether both have the same places and the same bits.
  package static func == (a: PixelShuffle, b: PixelShuffle) -> Bool { a.order == b.order && a.set == b.set }
}

// Copies from one mapping to another. If the source changes meanwhile, the copy mixes old and new bytes, as any screen
// does.
extension Mapping {
  /// Copies `count` bytes from `offset` of `source` to `place`.
  package func copy(_ count: Int, from source: Mapping, at offset: Int, to place: Int) {
    unsafe withBytes(at: place, count) { target in
      unsafe source.withBytes(at: offset, count) { unsafe target.copyMemory(from: $0, byteCount: count) }
    }
  }

  /// Copies `count` pixels of four bytes from `offset` on over `pixels` from `place` on, and reorders the bytes of each.
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

  /// Copies `count` pixels of four bytes, and reorders the bytes of each.
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
