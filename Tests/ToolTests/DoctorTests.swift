import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import udmabridge

/// `udmabridge doctor` as its users see it.
@Suite struct DoctorTests {
  private struct Report: Decodable {
    struct Check: Decodable {
      let name, status, found: String
      let remedy: String?
    }
    let checks: [Check]
  }

  private func report() throws -> (status: Int32, checks: [Report.Check]) {
    let (status, output) = try run(builtPrograms.appending("udmabridge"), ["doctor", "--json"])
    return (status, try JSONDecoder().decode(Report.self, from: Data(output.utf8)).checks)
  }

  @Test("each check that is not ok says how to mend it, and a failed one fails the program")
  func remedies() throws {
    let (status, checks) = try report()
    for check in checks {
      #expect(["ok", "limited", "failed"].contains(check.status))
      #expect(!check.found.isEmpty)
      #expect((check.remedy != nil) == (check.status != "ok"), "\(check.name)")
    }
    #expect(status == (checks.contains { $0.status == "failed" } ? 1 : 0))
    #expect(
      Set(checks.map(\.name)).isSuperset(of: [
        "udmabuf", "memfd", "huge pages", "KVM", "QEMU", "processes", "debugfs",
      ]))
  }

  @Test("the text of doctor names the checks that its JSON has")
  func text() throws {
    // Other tests start and end guests meanwhile: what counts is there before and after.
    let before = Set(try report().checks.map(\.name))
    let (_, output) = try run(builtPrograms.appending("udmabridge"), ["doctor"])
    let names = before.intersection(try report().checks.map(\.name))
    #expect(names.count >= 7)
    for name in names { #expect(output.contains(name)) }
  }

  @Test("guests that there is no time for are reported as not looked into")
  func noTime() throws {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let program = directory.appending("qemu-system-none")
    try FileManager.default.createSymbolicLink(atPath: program.string, withDestinationPath: "/bin/sh")
    let process = try Child(program, ["-c", "while :; do sleep 1; done"])
    try waitUntil("it is called so") { try RunningProcess(process.pid).name() == "qemu-system-non" }
    var report = udmabridge.Report()
    Doctor().checkGuests(&report, patience: .zero)
    process.signal(SIGKILL)
    #expect(report.checks.map(\.name) == ["guests"])
    #expect(report.checks.first?.found.contains("called qemu-system not looked into") == true)
  }

  @Test("doctor finds everything in order on the test host", .testHost)
  func testHost() throws {
    let (status, checks) = try report()
    #expect(status == 0)
    for name in ["udmabuf", "memfd", "KVM", "QEMU", "KMS card0", "processes", "debugfs"] {
      #expect(checks.first { $0.name == name }?.status == "ok", "\(name)")
    }
    #expect(checks.first { $0.name == "limits" }?.found.contains("list_limit") == true)
  }
}
