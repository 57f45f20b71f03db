import Testing
import Virtio

@Suite struct ObjectUUIDTests {
  /// RFC 9562, 4.1 and 4.2: where the version and the variant are; all other bits are random.
  @Test("a new UUID has version 4, and random bits") func isOfVersion4() {
    let all = (0..<1000).map { _ in ObjectUUID.random().bytes }
    #expect(all.allSatisfy { $0.count == 16 && $0[6] >> 4 == 4 && $0[8] >> 6 == 0b10 })
    #expect(Set(all).count == 1000)
    for index in 0..<16 {
      let ones = all.reduce(0) { $0 | $1[index] }
      let zeros = all.reduce(0xff) { $0 & $1[index] }
      let fixed: UInt8 = index == 6 ? 0xf0 : index == 8 ? 0xc0 : 0
      #expect(ones | fixed == 0xff && zeros & ~fixed == 0, "byte \(index)")
    }
  }

  @Test("a UUID is printed in the usual form") func isPrintedAsPeopleKnowIt() {
    let bytes: [UInt8] = [0, 1, 0x2a, 3, 4, 5, 0x46, 7, 0x88, 9, 10, 11, 12, 13, 14, 0xff]
    #expect("\(ObjectUUID(bytes))" == "00012a03-0405-4607-8809-0a0b0c0d0eff")
  }
}
