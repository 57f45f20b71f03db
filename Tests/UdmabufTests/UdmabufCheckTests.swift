import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Udmabuf

let sealCases: [(Seals, accepted: Bool)] = [
  (.shrink, true), ([.shrink, .grow], true), ([.shrink, .grow, .seal], true), ([], false), (.grow, false),
  ([.shrink, .write], false), ([.shrink, .futureWrite], false),
]

/// What is wrong with a list of ranges is told before the kernel is asked; no device is needed for that.
@Suite struct UdmabufCheckTests {
  private let page = systemPageSize
  private let limits = UdmabufLimits(items: 4, bytes: 1 << 20)

  private func memfd(pages: UInt64 = 8, _ seals: Seals = .shrink) throws -> Memfd {
    try Memfd.create(name: "check", size: pages * page, seals: seals)
  }

  private func error(_ ranges: [MemfdRange]) -> UdmabufError? {
    do throws(UdmabufError) {
      _ = try UdmabufDevice.check(ranges, limits)
      return nil
    } catch { return error }
  }

  @Test("a list in any order, with a range twice, passes the check and gives its size")
  func acceptsWhatTheKernelAccepts() throws {
    let memfd = try memfd()
    let ranges = [
      MemfdRange(memfd: memfd, offset: 7 * page, length: page),
      MemfdRange(memfd: memfd, offset: 0, length: 2 * page),
      MemfdRange(memfd: memfd, offset: 0, length: 2 * page),
    ]
    #expect(try UdmabufDevice.check(ranges, limits) == 5 * page)
  }

  @Test("an empty list is refused") func emptyList() { #expect(error([]) == .emptyList) }

  @Test("a list with more items than list_limit is refused") func tooManyItems() throws {
    let range = MemfdRange(memfd: try memfd(), offset: 0, length: page)
    #expect(error(Array(repeating: range, count: 5)) == .tooManyItems(count: 5, limit: 4))
    #expect(error(Array(repeating: range, count: 4)) == nil)
  }

  @Test("a list with more bytes than size_limit_mb is refused") func tooManyBytes() throws {
    let memfd = try memfd(pages: 512)
    let whole = MemfdRange(memfd: memfd, offset: 0, length: 1 << 20)
    let more = MemfdRange(memfd: memfd, offset: 0, length: page)
    #expect(error([whole]) == nil)
    #expect(error([whole, more]) == .tooManyBytes(bytes: 1 << 20 + page, limit: 1 << 20))
  }

  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let offset, length: UInt64
    let error: UdmabufError
  }
  private static let page = systemPageSize

  @Test(
    "the error names the item that is wrong",
    arguments: [
      Case(testDescription: "no length", offset: 0, length: 0, error: .emptyItem(item: 1)),
      Case(
        testDescription: "odd offset", offset: 512, length: page,
        error: .offsetMisaligned(item: 1, offset: 512)
      ),
      Case(
        testDescription: "odd length", offset: 0, length: page + 4,
        error: .lengthMisaligned(item: 1, length: page + 4)),
      Case(
        testDescription: "past the end", offset: 8 * page, length: page,
        error: .pastEnd(item: 1, end: 9 * page, size: 8 * page)),
      Case(
        testDescription: "over the end", offset: 7 * page, length: 2 * page,
        error: .pastEnd(item: 1, end: 9 * page, size: 8 * page)),
      Case(
        testDescription: "end overflows", offset: 0 &- page, length: 2 * page, error: .overflow(item: 1)),
      Case(testDescription: "sum overflows", offset: 0, length: 0 &- page, error: .overflow(item: 1)),
    ])
  func secondItem(_ one: Case) throws {
    let memfd = try memfd()
    let good = MemfdRange(memfd: memfd, offset: 0, length: page)
    #expect(error([good, MemfdRange(memfd: memfd, offset: one.offset, length: one.length)]) == one.error)
  }

  @Test("a memfd without the right seals is refused", arguments: sealCases)
  func seals(_ seals: Seals, accepted: Bool) throws {
    let range = MemfdRange(memfd: try memfd(pages: 1, seals), offset: 0, length: page)
    switch error([range]) {
    case nil: #expect(accepted)
    case .sealMissing(item: 0, let told): #expect(!accepted && told == seals && !seals.contains(.shrink))
    case .sealForbidden(item: 0, let told): #expect(!accepted && told == seals && seals.contains(.shrink))
    case let other: Issue.record("\(String(describing: other))")
    }
  }

  @Test("a file that is not a memfd is refused") func fileThatIsNoMemfd() throws {
    let file = try Memfd(adopting: FD.open("/proc/self/exe", writable: false))
    #expect(error([MemfdRange(memfd: file, offset: 0, length: page)]) == .notMemfd(item: 0))
  }

  /// The size is asked when it matters, not when the memfd was adopted.
  @Test("the size of a memfd is read at the check, not before") func memfdThatGrew() throws {
    let memfd = try memfd(pages: 1)
    try memfd.withDescriptor { try resize($0, 2 * page) }
    #expect(memfd.status.size == page)
    #expect(error([MemfdRange(memfd: memfd, offset: page, length: page)]) == nil)
  }

  @Test("errors about limits and memfds name the remedy or the seals") func everyErrorSaysWhatToDo() {
    let remedies: [(UdmabufError, String)] = [
      (.tooManyItems(count: 2025, limit: 1024), "echo 2048 > /sys/module/udmabuf/parameters/list_limit"),
      (
        .tooManyBytes(bytes: 64 << 20 + 1, limit: 64 << 20),
        "echo 65 > /sys/module/udmabuf/parameters/size_limit_mb"
      ),
      (.notMemfd(item: 3), "memory-backend-memfd"),
      (.sealMissing(item: 3, seals: [.grow]), "its seals: GROW"),
      (.sealForbidden(item: 3, seals: [.shrink, .write]), "SHRINK|WRITE"),
    ]
    for (error, remedy) in remedies { #expect(error.description.contains(remedy)) }
  }

  @Test("opening a device that is not there throws the error of the open") func noDevice() {
    #expect(throws: Errno.noSuchFileOrDirectory) { try UdmabufDevice("/dev/no-such-udmabuf") }
  }
}
