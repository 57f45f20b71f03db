import Linux
import Programs
import SystemPackage
import TestSupport
import Testing

/// What packages say that is said elsewhere too.
@Suite struct PackagingTests {
  private func text(_ path: String) throws -> String { try readText(repository.appending(path)) }

  @Test("the compiler that .swift-version names is one that building allows")
  func compiler() throws {
    let needed = try #require(try text("packaging/need").firstMatch(of: /(?m)^needed=(\d+)\.(\d+)$/))
    let named = try #require(try text(".swift-version").wholeMatch(of: /(\d+)\.(\d+)(\.\d+)?\n/))
    #expect(
      try (#require(Int(named.1)), #require(Int(named.2)))
        >= (#require(Int(needed.1)), #require(Int(needed.2))))
  }

  @Test("a cluster's images have the programs' version, and its nodes the limit that an installation sets")
  func cluster() throws {
    let directory = "packaging/kubernetes"
    let tag = try #require(
      try text("\(directory)/kustomization.yaml").firstMatch(of: /name: udmabridge\n +newTag: (\S+)\n/))
    #expect(tag.1 == programVersion)
    for file in ["\(directory)/machine.yaml", "\(directory)/Containerfile", "docs/kubernetes.md"] {
      let images = try text(file).matches(of: /udmabridge(?:-sidecar)?:(\d[\w.]*)/)
      #expect(!images.isEmpty && images.allSatisfy { $0.1 == programVersion }, "\(file)")
    }
    let installed = try #require(
      try text("packaging/udmabridge.tmpfiles").firstMatch(of: /list_limit - - - - (\d+)\n/))
    let set = try #require(
      try text("\(directory)/node.yaml").firstMatch(of: /name: LIST_LIMIT\n +value: "(\d+)"/))
    #expect(set.1 == installed.1)
  }

  @Test("the package's hook passes its words to the tool, and succeeds without the tool")
  func hook() throws {
    let directory = try makeTemporaryDirectory()
    let (hook, tool) = (directory.appending("hook"), directory.appending("udmabridge"))
    let source = try text("packaging/debian/udmabridge/hook")
    #expect(source.contains("/usr/bin/udmabridge"))
    try writeText(hook, source.replacing("/usr/bin/udmabridge", with: tool.string))
    try setMode(hook, 0o755)
    let words = ["a domain", "prepare", "begin", "-"]
    #expect(try run(hook, words, withErrors: true) == (0, ""))
    try writeText(tool, "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 3\n")
    try setMode(tool, 0o755)
    #expect(try run(hook, words, withErrors: true) == (3, "libvirt-hook|a domain|prepare|begin|-|"))
  }

  @Test(
    "the packages' scripts parse, and those before and after a removal pass over an upgrade",
    arguments: [
      "udmabridge/postinst", "udmabridge/prerm", "udmabridge/postrm",
      "udmabridge-guest/postinst", "udmabridge-guest/prerm", "udmabridge-guest/postrm",
    ])
  func scripts(_ name: String) throws {
    let script = repository.appending("packaging/debian/\(name)")
    #expect(try run("/bin/sh", ["-n", script.string], withErrors: true) == (0, ""))
    // One that dpkg calls for an upgrade does nothing to the old version.
    if !name.hasSuffix("postinst") {
      #expect(try run(script, ["upgrade", "1"], withErrors: true) == (0, ""))
    }
  }
}
