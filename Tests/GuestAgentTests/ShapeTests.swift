import GuestAgent
import Linux
import Testing

/// Images that are buffers.
@Suite struct FlatShapeTests {
  @Test(
    "an image has the buffer's bytes in whole pages, and no side that is too long",
    arguments: [1, 4095, 4096, 4097, 8 << 20, 65535 << 12, (65535 << 12) + 1, 1 << 30, (1 << 32) - (1 << 20)]
      as [UInt64])
  func shape(_ bytes: UInt64) throws {
    let shape = try #require(FlatShape(bytes))
    #expect(UInt64(shape.width) * UInt64(shape.height) * 4 == UInt64(shape.size))
    #expect(shape.width <= 65535 && shape.height <= 65535)
    #expect(shape.size >= bytes && UInt64(shape.size) % systemPageSize == 0)
    // A page more for each row that is longer than one page.
    #expect(UInt64(shape.size) - bytes < UInt64(shape.width) * 4 + systemPageSize)
  }

  @Test("there is no image for 0 bytes, or for 4 GiB", arguments: [0, 1 << 32, .max] as [UInt64])
  func none(_ bytes: UInt64) { #expect(FlatShape(bytes) == nil) }
}
