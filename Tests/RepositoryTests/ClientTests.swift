import Linux
import SystemPackage
import TestSupport
import Testing

/// A user of the library, in a package of its own (`Tests/Client`).
@Suite struct ClientTests {
  private static let scratch = repository.appending(".build-client")

  /// On the machine itself, where the compiler has its cache. `Tests/run` leaves it out in the test host.
  @Test("a client with a module Linux, Foundation and NIO beside the library builds without a warning")
  func buildsNatively() throws {
    let client = repository.appending("Tests/Client").string
    let (status, output) = try run(
      "/usr/bin/env",
      ["swift", "build", "--package-path", client, "--scratch-path", Self.scratch.string], withErrors: true)
    #expect(status == 0, "\(output)")
    let warnings = output.split(separator: "\n").filter { $0.contains(client) && $0.contains("warning:") }
    #expect(warnings.isEmpty)
  }

  @Test("the client, which was built natively, makes a dma-buf of three pages", .testHost)
  func runs() throws {
    let (status, output) = try run(Self.scratch.appending("debug/client"), [], withErrors: true)
    #expect(status == 0)
    #expect(output == "a dma-buf of 12288 bytes; 0 loops, a timer\n")
  }
}
