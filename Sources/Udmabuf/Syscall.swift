internal import Glibc
package import SystemPackage

/// Runs one system call again while a signal interrupts it; the only place that reads `errno`.
///
/// - Returns: what the call returned, when that is not -1.
/// - Throws: the call's `errno`.
package func retrying<Result: FixedWidthInteger & SignedInteger>(
  _ call: () -> Result
) throws(Errno) -> Result {
  while true {
    let result = call()
    if result != -1 { return result }
    let error = Errno(rawValue: errno)
    if error != .interrupted { throw error }
  }
}

/// The size of a page in bytes, as the system states it (`sysconf(_SC_PAGESIZE)`).
package let systemPageSize = UInt64(sysconf(CInt(_SC_PAGESIZE)))

/// This number of bytes, rounded up to whole pages.
package func wholePages(_ bytes: UInt64) -> UInt64 {
  (bytes + systemPageSize - 1) / systemPageSize * systemPageSize
}
