internal import Glibc
package import Linux
internal import Synchronization
package import SystemPackage
package import Testing
internal import Udmabuf

/// The VM of `qemu/boot-host`, which has `/dev/udmabuf` and a KMS card.
package enum TestHost {
  /// We are in it. In there a device that is missing fails a test; elsewhere such tests are skipped.
  package static let isActive = unsafe getenv("UDMABRIDGE_TESTHOST") != nil

  private static let limitLock = Mutex(())

  /// Runs `body` while udmabuf has these limits, and no other test changes them. But for a moment nobody
  /// sets them below the driver's own 1024 items and 64 MiB, so small buffers can be made.
  package static func withUdmabufLimits<Result>(
    items: UInt64 = 1024, megabytes: UInt64 = 64, _ body: () throws -> Result
  ) throws -> Result {
    try limitLock.withLock { _ in
      let old = UdmabufLimits.current()
      try setLimits(items, megabytes)
      defer { try? setLimits(old.items, old.bytes >> 20) }
      return try body()
    }
  }

  private static func setLimits(_ items: UInt64, _ megabytes: UInt64) throws {
    try write("\(items)", to: UdmabufLimits.directory.appending("list_limit"))
    try write("\(megabytes)", to: UdmabufLimits.directory.appending("size_limit_mb"))
  }

  /// Writes a file of sysfs or procfs.
  package static func write(_ text: String, to path: FilePath) throws {
    try FD.open(path, writable: true).write(unsafe Array(text.utf8).span.bytes)
  }
}

extension Trait where Self == ConditionTrait {
  /// The test needs the test host.
  package static var testHost: Self {
    .enabled(if: TestHost.isActive, "runs in the test host: qemu/boot-host -- swift test --skip-build")
  }
}

/// A number for each pixel of each frame, so that a pixel out of place shows.
package func pixel(_ x: UInt32, _ y: UInt32, frame: UInt32 = 0) -> UInt32 {
  ((x &* 7 &+ frame &* 31) & 0xff) << 16 | ((y &* 5 &+ frame &* 17) & 0xff) << 8 | ((x ^ y) &+ frame) & 0xff
}

/// The pages of a memfd in an order in which no two neighbours follow each other.
package func scatteredRanges(of memfd: Memfd, pages: Int) -> [MemfdRange] {
  // Backwards is enough: each page would have to be followed by the next one to be joined with it.
  (0..<pages).reversed().map {
    MemfdRange(memfd: memfd, offset: UInt64($0) * systemPageSize, length: systemPageSize)
  }
}
