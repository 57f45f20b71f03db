import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

/// `qemu/lib/choose`, with lists of archives as they are and as they may become.
@Suite struct RolesTests {
  struct Archive: Sendable, CustomTestStringConvertible {
    let name: String
    /// Of each suite: the releases of its kernels, without the architecture, and the version of its QEMU.
    let suites: [(suite: String, kernels: [String], qemu: String)]
    /// The suite of the machine's own release.
    var own = "oldstable"
    let expected: Set<String>
    /// How the sentences about what is missing begin, in their order.
    var missing: [String] = []
    var testDescription: String { name }
  }

  private static let bullseye = ["5.10.0-9", "5.10.0-32", "5.10.0-32-rt", "5.10.0-32-cloud"]
  private static let bookworm = ["6.1.0-47", "6.1.0-50", "6.1.0-50-cloud"]
  private static let backportsOf12 = ["6.12.9+bpo", "6.12.90+deb12", "6.12.90+deb12.1", "6.12.95+deb12"]
  private static let trixie = ["6.12.94+deb13", "6.12.107+deb13", "6.12.107+deb13-rt"]
  private static let backportsOf13 = ["6.16.12+deb13", "7.0.13+deb13", "7.3.4+deb13", "7.3.4+deb13-cloud"]
  private static let (qemu11, qemu12) = ("1:7.2+dfsg-7+deb12u18+b3", "1:10.0.2+ds-2+deb13u1~bpo12+1")
  private static let (qemu13, newQEMU) = ("1:10.0.13+ds-0+deb13u1", "1:11.1.3+ds-1~bpo13+1")

  static let archives = [
    Archive(
      name: "of Debian 13's time",
      suites: [
        ("oldoldstable", bullseye, "1:5.2+dfsg-11+deb11u3"), ("oldstable", bookworm, qemu11),
        ("oldstable-backports", backportsOf12, qemu12), ("stable", trixie, qemu13),
        ("stable-backports", backportsOf13, newQEMU),
      ],
      expected: [
        "kernel oldest oldoldstable 5.10.0-32-amd64", "kernel distribution oldstable 6.1.0-50-amd64",
        "kernel oldest-udmabuf oldstable-backports 6.12.95+deb12-amd64",
        "kernel newest stable-backports 7.3.4+deb13-amd64", "qemu stable stable \(qemu13)",
        "qemu oldest-generic stable-backports \(newQEMU)", "qemu newest stable-backports \(newQEMU)",
      ]),
    Archive(
      name: "without its oldest release, on a machine of Debian 13",
      suites: [
        ("oldstable", bookworm, qemu11), ("oldstable-backports", backportsOf12, qemu12),
        ("stable", trixie, qemu13),
        ("stable-backports", backportsOf13, newQEMU),
      ],
      own: "stable",
      expected: [
        "kernel oldest oldstable 6.1.0-50-amd64", "kernel distribution stable 6.12.107+deb13-amd64",
        "kernel oldest-udmabuf oldstable-backports 6.12.95+deb12-amd64",
        "kernel newest stable-backports 7.3.4+deb13-amd64", "qemu stable stable \(qemu13)",
        "qemu oldest-generic stable-backports \(newQEMU)", "qemu newest stable-backports \(newQEMU)",
      ],
      missing: ["nothing from oldoldstable: no kernel older than 6.1.0-50-amd64 "]),
    Archive(
      name: "whose backports have moved on",
      suites: [
        ("oldoldstable", bullseye, "1:5.2+dfsg-11+deb11u3"), ("oldstable", bookworm, qemu11),
        ("oldstable-backports", ["6.12.201+deb12"], "1:10.1.2+ds-1~bpo12+1"), ("stable", trixie, qemu13),
        ("stable-backports", ["7.9.1+deb13", "7.10.2+deb13"], "1:12.0.0+ds-2~bpo13+1"),
      ],
      expected: [
        "kernel oldest oldoldstable 5.10.0-32-amd64", "kernel distribution oldstable 6.1.0-50-amd64",
        "kernel oldest-udmabuf oldstable-backports 6.12.201+deb12-amd64",
        "kernel newest stable-backports 7.10.2+deb13-amd64", "qemu stable stable \(qemu13)",
        "qemu oldest-generic oldstable-backports 1:10.1.2+ds-1~bpo12+1",
        "qemu newest stable-backports 1:12.0.0+ds-2~bpo13+1",
      ]),
    Archive(
      name: "of the day on which Debian 14 is stable, without backports",
      suites: [
        ("oldoldstable", bookworm, qemu11), ("oldstable", trixie, qemu13),
        ("oldstable-backports", backportsOf13, newQEMU), ("stable", ["7.5.2+deb14"], "1:12.1.0+ds-2"),
      ],
      own: "oldoldstable",
      expected: [
        "kernel oldest oldoldstable 6.1.0-50-amd64", "kernel distribution oldoldstable 6.1.0-50-amd64",
        "kernel oldest-udmabuf oldstable 6.12.107+deb13-amd64", "kernel newest stable 7.5.2+deb14-amd64",
        "qemu stable stable 1:12.1.0+ds-2", "qemu oldest-generic oldstable-backports \(newQEMU)",
        "qemu newest stable 1:12.1.0+ds-2",
      ],
      missing: ["nothing from stable-backports: no kernel newer than 7.5.2+deb14-amd64 "]),
    Archive(
      name: "whose backports are empty, so that roles fall on one version",
      suites: [
        ("oldoldstable", bullseye, "1:5.2+dfsg-11+deb11u3"), ("oldstable", bookworm, qemu11),
        ("stable", trixie, qemu13),
      ],
      expected: [
        "kernel oldest oldoldstable 5.10.0-32-amd64", "kernel distribution oldstable 6.1.0-50-amd64",
        "kernel oldest-udmabuf stable 6.12.107+deb13-amd64", "kernel newest stable 6.12.107+deb13-amd64",
        "qemu stable stable \(qemu13)", "qemu newest stable \(qemu13)",
      ],
      missing: [
        "no suite has a QEMU with the generic vhost-user device, ", "nothing from oldstable-backports: ",
        "nothing from stable-backports: ",
      ]),
    Archive(
      name: "without its stable release, on a machine of none of its releases",
      suites: [
        ("oldoldstable", bullseye, "1:5.2+dfsg-11+deb11u3"), ("oldstable", bookworm, qemu11),
        ("oldstable-backports", backportsOf12, qemu12), ("stable-backports", backportsOf13, newQEMU),
      ],
      own: "",
      expected: [
        "kernel oldest oldoldstable 5.10.0-32-amd64",
        "kernel distribution stable-backports 7.3.4+deb13-amd64",
        "kernel oldest-udmabuf oldstable-backports 6.12.95+deb12-amd64",
        "kernel newest stable-backports 7.3.4+deb13-amd64", "qemu stable oldstable-backports \(qemu12)",
        "qemu oldest-generic stable-backports \(newQEMU)", "qemu newest stable-backports \(newQEMU)",
      ],
      missing: [
        "no suite has a kernel of this machine's own release: ", "the QEMU of stable is not tested: ",
        "nothing from stable: ",
      ]),
  ]

  @Test("each role has the version that the archive has for it", arguments: archives)
  func roles(_ archive: Archive) throws {
    let (status, output, errors) = try choose(archive)
    #expect(status == 0)
    #expect(Set(output.map(String.init)) == archive.expected)
    #expect(errors.count == archive.missing.count, "\(errors)")
    for (sentence, beginning) in zip(errors, archive.missing) {
      #expect(sentence.hasPrefix("choose: \(beginning)"), "\(sentence)")
    }
  }

  @Test("without any kernel that has udmabuf nothing is chosen")
  func nothingToLend() throws {
    let archive = Archive(
      name: "",
      suites: [("oldoldstable", Self.bullseye, Self.qemu11), ("stable", Self.bookworm, Self.qemu13)],
      expected: [])
    let (status, output, errors) = try choose(archive)
    #expect(status == 1 && output.isEmpty)
    #expect(
      errors.count == 1 && errors[0].hasPrefix("choose: no suite has a kernel with udmabuf, "), "\(errors)")
  }

  private func choose(_ archive: Archive) throws -> (status: Int32, output: [Substring], errors: [Substring])
  {
    let directory = try makeTemporaryDirectory()
    defer { _ = try? FileManager.default.removeItem(atPath: directory.string) }
    let lines = archive.suites.flatMap { suite, kernels, qemu in
      kernels.map { "\(suite) linux-image-\($0)-amd64 1-1" }
        + ["\(suite) linux-image-\(kernels[0])-amd64-unsigned 1-1", "\(suite) qemu-system-x86 \(qemu)"]
    }
    try lines.joined(separator: "\n").write(
      toFile: directory.appending("list").string, atomically: false, encoding: .utf8)
    let (status, output) = try run(
      "/bin/bash",
      [
        "-c",
        "cd '\(directory)' && '\(repository)/qemu/lib/choose' --distribution '\(archive.own)' list 2>errors",
      ])
    return (
      status, output.split(separator: "\n"),
      try readText(directory.appending("errors")).split(separator: "\n")
    )
  }
}
