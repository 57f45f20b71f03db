package import Guest
package import Linux

/// The bytes of a buffer for the CPU: pieces of mapped memory, one behind the other.
package struct ByteSource {
  private let windows: [GuestWindow]
  /// The offset of each window in the buffer.
  private let starts: [Int]
  /// In bytes.
  package let length: Int

  package init(_ windows: [GuestWindow]) {
    self.windows = windows
    var end = 0
    starts = windows.map { window in
      defer { end += window.length }
      return end
    }
    length = end
  }

  /// Copies rows of `count` bytes. The first starts at `offset`, each next one `stride` bytes later. Bytes past the end of
  /// the source are left out.
  /// - Returns: the number of bytes copied.
  @discardableResult
  package func copyRows(
    _ rows: Int, of count: Int, from offset: Int, stride: Int, to target: Mapping, at place: Int,
    targetStride: Int, _ shuffle: PixelShuffle? = nil
  ) -> UInt64 {
    guard offset < length else { return 0 }
    var first = window(at: offset)
    // If neither side has gaps between rows, all rows are one piece.
    if shuffle == nil, count == stride, stride == targetStride {
      return UInt64(copy(count * rows, from: offset, &first, to: target, at: place, nil))
    }
    var copied = 0
    for row in 0..<rows {
      copied += copy(
        count, from: offset + row * stride, &first, to: target, at: place + row * targetStride, shuffle)
    }
    return UInt64(copied)
  }

  /// A copy of the first `count` bytes, with zeros behind the end of the source.
  package func bytes(upTo count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    for window in windows where bytes.count < count {
      window.mapping.append(to: &bytes, from: window.start, count: min(window.length, count - bytes.count))
    }
    bytes.append(contentsOf: repeatElement(0, count: count - bytes.count))
    return bytes
  }

  /// `first` is a window at or before the one that holds `offset`, and then that one: rows follow each other.
  private func copy(
    _ count: Int, from offset: Int, _ first: inout Int, to target: Mapping, at place: Int,
    _ shuffle: PixelShuffle?
  ) -> Int {
    let end = min(offset + count, length)
    guard offset < end else { return 0 }
    while offset - starts[first] >= windows[first].length { first += 1 }
    var (index, here) = (first, offset)
    while here < end {
      let window = windows[index]
      let skip = here - starts[index]
      let piece = min(window.length - skip, end - here)
      let (from, to) = (window.start + skip, place + here - offset)
      if let shuffle {
        copyPixels(
          in: piece, of: index, from: from, done: here - offset, left: end - here, to: target, at: to, shuffle
        )
      } else {
        target.copy(piece, from: window.mapping, at: from, to: to)
      }
      here += piece
      index += 1
    }
    return end - offset
  }

  /// A pixel may lie across two pieces, because a guest's list need not be aligned. Such a pixel is copied byte by byte.
  /// - Parameters:
  ///   - piece: the number of bytes in the window `index`, from `from` of its mapping on.
  ///   - done, left: the number of the row's bytes before here, and from here on.
  private func copyPixels(
    in piece: Int, of index: Int, from: Int, done: Int, left: Int, to target: Mapping, at to: Int,
    _ shuffle: PixelShuffle
  ) {
    // The rest of a pixel from an earlier piece is written already.
    let skip = (4 - done % 4) % 4
    guard piece > skip else { return }
    let whole = (piece - skip) / 4
    target.copy(pixels: whole, shuffle, from: windows[index].mapping, at: from + skip, to: to + skip)
    let behind = skip + whole * 4
    guard behind < piece, left - behind >= 4 else { return }
    var pixel: UInt32 = 0
    for byte in 0..<4 {
      pixel |=
        UInt32(self.byte(at: starts[index] + from - windows[index].start + behind + byte)) << (8 * byte)
    }
    target.store(shuffle(pixel), at: to + behind)
  }

  private func byte(at offset: Int) -> UInt8 {
    let index = window(at: offset)
    return windows[index].mapping.load(UInt8.self, at: windows[index].start + offset - starts[index])
  }

  /// The last window that starts at or before `offset`, which is inside the source.
  private func window(at offset: Int) -> Int {
    var (low, high) = (0, starts.count)
    while high - low > 1 {
      let middle = (low + high) / 2
      if starts[middle] <= offset { low = middle } else { high = middle }
    }
    return low
  }
}
