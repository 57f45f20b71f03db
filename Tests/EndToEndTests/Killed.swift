import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

extension EndToEnd {
  enum Killed: String, CaseIterable, Sendable { case qemu, helper }
}

extension RunningGuest {
  /// Ends one of the two by SIGKILL, and expects of the helper that it ends as it should, and of QEMU and the guest that
  /// they go on without it, until whoever started both ends them.
  /// - Parameter withoutHelper: called while they do.
  func expectEnd(killing first: EndToEnd.Killed, withoutHelper: () throws -> Void) throws {
    let (helper, qemu) = (try #require(helperPID), try #require(qemuPID))
    let stats = directory.appending("stats")
    switch first {
    case .qemu:
      _ = unsafe stats.withPlatformString { unsafe truncate($0, 0) }
      kill(qemu, SIGKILL)
      waitForEnd()
      // What it writes at its end.
      let text = try readText(stats)
      let last = try JSONDecoder().decode(HelperStatistics.self, from: Data(text.utf8))
      #expect(last.protocolErrors.isEmpty && last.framesFailed == 0, "\(last)")
      #expect(!helperLog.contains("was closed"), "\(helperLog)")
    case .helper:
      try whileNobodyLooks {
        kill(helper, SIGKILL)
        try waitUntil("the helper is gone") { isGone(helper) }
        // QEMU has seen the helper's end when it passes this on.
        let answer = try shell("echo on")
        #expect(answer == "on\n", "the guest goes on")
        #expect(!isGone(qemu), "\(lastWords)")
        try withoutHelper()
      }
      waitForEnd()
    }
    try waitUntil("both are gone") { isGone(helper) && isGone(qemu) }
  }
}
