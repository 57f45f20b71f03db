import SystemPackage
import TestSupport
import Testing

/// `packaging/need`, which says what building lacks.
@Suite struct BuildNeedsTests {
  private let directory: FilePath

  init() throws { directory = try makeTemporaryDirectory() }

  /// Runs it with a directory of ours before the system's on the PATH.
  private func need(_ what: String, _ variables: String...) throws -> (status: Int32, output: String) {
    try run(
      "/usr/bin/env",
      ["PATH=\(directory):/usr/bin:/bin"] + variables + [
        repository.appending("packaging/need").string, what,
      ],
      withErrors: true)
  }

  private func makeSwift(_ body: String) throws {
    _ = try run(
      "/bin/sh",
      ["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" >$0/swift && chmod +x $0/swift", directory.string, body])
  }

  @Test(
    "a swift that does not run and one that is too old are told apart, each with the way out",
    arguments: [
      (
        "echo 'libncurses.so.6: cannot open shared object file' >&2; exit 127", 1,
        ["does not run", "libncurses.so.6"]
      ),
      ("echo Swift version 5.10.1", 1, ["6.3 or later", "is 5.10.1", "swift.org"]),
      ("echo something else", 1, ["6.3 or later", "unknown version"]),
      ("echo Swift version 6.3", 0, []),
      ("echo Swift version 6.10.2", 0, []),
    ])
  func swifts(_ body: String, _ status: Int32, _ words: [String]) throws {
    try makeSwift(body)
    let answer = try need("swift")
    #expect(answer.status == status)
    for word in words { #expect(answer.output.contains(word), "\(answer.output)") }
  }

  @Test("without a swift on the PATH packaging/need says so")
  func noSwift() throws {
    let program = repository.appending("packaging/need").string
    let answer = try run(
      "/usr/bin/env", ["PATH=\(directory)", "/bin/bash", program, "swift"], withErrors: true)
    #expect(answer.status == 1 && answer.output.contains("no swift on the PATH"), "\(answer.output)")
  }

  @Test("libraries that pkg-config does not find are named, with one line that installs them")
  func libraries() throws {
    try makeSwift("echo Swift version 6.3")
    #expect(try need("libraries") == (0, ""))
    let answer = try need("libraries", "PKG_CONFIG_LIBDIR=/nonexistent")
    #expect(answer.status == 1)
    #expect(answer.output.contains("libdrm libseccomp libpng libxml-2.0"), "\(answer.output)")
    let isDebian = try run("/bin/sh", ["-c", ". /etc/os-release; echo $ID"]).output == "debian\n"
    #expect(
      answer.output.contains("apt install libdrm-dev libseccomp-dev libpng-dev libxml2-dev") == isDebian,
      "\(answer.output)")
  }
}
