import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Varlink

/// The client that waits, against a service in another thread.
@Suite struct VarlinkClientTests {
  /// Answers each message with the next of these texts, a NUL behind each.
  private func client(_ answers: [String], _ body: (VarlinkClient) throws -> Void) throws {
    try UnixSocket.pair { ours, theirs in
      unsafe try theirs.fd.write(Array(answers.map { $0 + "\0" }.joined().utf8).span.bytes)
      theirs.fd.withRaw { _ = shutdown($0, CInt(SHUT_WR)) }
      try body(VarlinkClient(adopting: ours))
      // What it sent.
      #expect(try theirs.fd.read(upTo: 4096).last == 0)
    }
  }

  @Test("a client gets a reply that continues, and then the last one") func replies() throws {
    try client([
      #"{"parameters":{"fileDescriptor":4},"continues":true}"#, #"{"parameters":{"fileDescriptor":5}}"#,
    ]) { client in
      try client.callMore("a.B")
      let first = try client.next()
      let continues = first.continues
      #expect(continues)
      let one = try first.decode(Example.Given.self).fileDescriptor
      #expect(one == 4)
      let second = try client.next()
      let ends = !second.continues
      #expect(ends)
      let two = try second.decode(Example.Given.self).fileDescriptor
      #expect(two == 5)
    }
  }

  @Test(
    "an error reply, and one that is none, become a sentence",
    arguments: [
      (
        #"{"error":"a.No","parameters":{"scanout":7,"why":"so"}}"#,
        "the service answered a.No: scanout 7, why so"
      ),
      (#"{"error":"a.No"}"#, "the service answered a.No"),
      (#"{"error":"a.No","parameters":[]}"#, "the service answered a.No"),
      ("nonsense", "not a varlink reply"), ("[]", "not a varlink reply"),
    ])
  func errors(_ answer: String, _ sentence: String) throws {
    try client([answer]) { client in
      do {
        _ = try client.call("a.B")
        Issue.record("it succeeds")
      } catch { #expect("\(error)".contains(sentence), "\(error)") }
    }
  }

  @Test("a client whose service ends gets an error") func endOfTheService() throws {
    try client([]) { client in
      do {
        _ = try client.call("a.B")
        Issue.record("it succeeds")
      } catch { #expect("\(error)".contains("closed the connection")) }
    }
  }

  @Test("a client without a service gets an error that names the socket") func nobodyThere() throws {
    do {
      _ = try VarlinkClient("/nowhere/control")
      Issue.record("it connects")
    } catch { #expect("\(error)".contains("/nowhere/control")) }
  }
}
