import Testing

@testable import Metrics

/// Requests, well-formed and not.
@Suite struct ScrapeRequestTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let text: String
    let expected: ScrapeRequest
    init(_ name: String, _ text: String, _ expected: ScrapeRequest) {
      (testDescription, self.text, self.expected) = (name, text, expected)
    }
  }

  private static let metrics = ScrapeRequest.metrics(headersOnly: false)
  private static let bad = ScrapeRequest.refused(.badRequest)
  /// A request whose lines, with their ends, have so many bytes.
  private static func long(_ size: Int) -> String {
    let (head, end) = ("GET /metrics HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n")
    return head + String(repeating: "x", count: size - head.utf8.count - end.utf8.count) + end
  }

  static let cases: [Case] = [
    .init(
      "as a scraper asks", "GET /metrics HTTP/1.1\r\nHost: localhost:9817\r\nAccept: */*\r\n\r\n", metrics),
    .init("the old version, without a host", "GET /metrics HTTP/1.0\r\n\r\n", metrics),
    .init("a version of this kind to come", "GET /metrics HTTP/1.9\r\nHost: a\r\n\r\n", metrics),
    .init("headers only", "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", .metrics(headersOnly: true)),
    .init("with a query", "GET /metrics?name=x HTTP/1.1\r\nHost: a\r\n\r\n", metrics),
    .init("by a proxy", "GET http://a:1/metrics HTTP/1.1\r\nhOST: a\r\n\r\n", metrics),
    .init("lines without CR", "GET /metrics HTTP/1.1\nHost: a\n\n", metrics),
    .init("an empty line before", "\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", metrics),
    .init(
      "an empty header, and one with a tab", "GET /metrics HTTP/1.1\r\nHost:\r\nX: a\tb\r\n\r\n", metrics),
    .init("with a body", "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", metrics),
    .init("and another request", "GET /metrics HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n", metrics),
    .init("as long as it may be", long(8192), metrics),

    .init("nothing", "", .incomplete), .init("half a line's end", "\r", .incomplete),
    .init("an empty line", "\r\n", .incomplete), .init("a word", "GET", .incomplete),
    .init("a line", "GET /metrics HTTP/1.1\r\n", .incomplete),
    .init("all but the last byte", String(long(8192).dropLast(1)), .incomplete),

    .init("a byte too long", long(8193), .refused(.tooLarge)),
    .init("a line without an end", String(repeating: "a", count: 8193), .refused(.tooLarge)),
    .init(
      "no end of headers", "GET / HTTP/1.1\r\n" + String(repeating: "a: b\r\n", count: 2000),
      .refused(.tooLarge)),

    .init("the server itself", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound)),
    .init("another path", "GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound)),
    .init("a path that leads there", "GET /x/../metrics HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound)),
    .init("a file", "GET ../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound)),
    .init("a proxy's, without a path", "GET http://metrics HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound)),
    .init("a proxy's host with that name", "GET http:///metrics HTTP/1.1\r\nHost: a\r\n\r\n", metrics),
    .init(
      "headers of another path", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound, headersOnly: true)),
    .init("POST", "POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.method)),
    .init("in small letters", "get /metrics HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.method)),
    .init("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", .refused(.notFound)),
    .init("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", .refused(.version)),
    .init("HTTP/0.9 with a version", "GET /metrics HTTP/0.9\r\n\r\n", .refused(.version)),

    .init("HTTP/0.9", "GET /metrics\r\n\r\n", bad), .init("TLS", "\u{16}\u{3}\u{1}", bad),
    .init("two empty lines", "\r\n\r\n", bad), .init("a blank before", " GET /metrics HTTP/1.0\r\n\r\n", bad),
    .init("two blanks", "GET  /metrics HTTP/1.0\r\n\r\n", bad),
    .init("a blank behind", "GET /metrics HTTP/1.0 \r\n\r\n", bad),
    .init("tabs", "GET\t/metrics\tHTTP/1.0\r\n\r\n", bad),
    .init("no target", "GET  HTTP/1.0\r\n\r\n", bad),
    .init("a method that is none", "G@T /metrics HTTP/1.0\r\n\r\n", bad),
    .init("another protocol", "GET /metrics RTSP/1.0\r\n\r\n", bad),
    .init("a version that is none", "GET /metrics HTTP/1\r\n\r\n", bad),
    .init("a long version", "GET /metrics HTTP/1.11\r\n\r\n", bad),
    .init("a NUL", "GET /metrics HTTP/1.0\r\nX: a\u{0}b\r\n\r\n", bad),
    .init("CR alone", "GET /metrics HTTP/1.0\r\nX: a\rb\r\n\r\n", bad),
    .init("no host", "GET /metrics HTTP/1.1\r\n\r\n", bad),
    .init("two hosts", "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", bad),
    .init("two hosts, the old version", "GET /metrics HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", bad),
    .init("no colon", "GET /metrics HTTP/1.0\r\nX\r\n\r\n", bad),
    .init("no name", "GET /metrics HTTP/1.0\r\n: x\r\n\r\n", bad),
    .init("a blank before the colon", "GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", bad),
    .init("a line that goes on", "GET /metrics HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", bad),
  ]

  @Test("a request is read as what it asks, or refused, or incomplete", arguments: cases)
  func atOnce(_ example: Case) {
    #expect(ScrapeRequest.read(Array(example.text.utf8)) == example.expected)
  }

  @Test("a request that comes byte by byte is read as the whole one", arguments: cases)
  func pieces(_ example: Case) {
    var bytes: [UInt8] = []
    for byte in example.text.utf8 {
      bytes.append(byte)
      let soFar = ScrapeRequest.read(bytes)
      if soFar == .incomplete { continue }
      #expect(soFar == example.expected)
      return
    }
    #expect(example.expected == .incomplete)
  }

  @Test("an answer has the length that it says, and the reason of a refusal")
  func answers() throws {
    for status in [ScrapeStatus.badRequest, .notFound, .method, .late, .tooLarge, .busy, .version] {
      let text = String(decoding: status.answer(), as: UTF8.self)
      let parts = text.split(separator: "\r\n\r\n", maxSplits: 1)
      #expect(text.hasPrefix("HTTP/1.1 \(status.rawValue) ") && parts.count == 2 && parts[1].count > 10)
      #expect(
        parts[0].contains("\r\nContent-Length: \(parts[1].utf8.count)\r\nConnection: close")
          || status == .method)
      // RFC 9110, 15.5.6.
      #expect(parts[0].contains("\r\nAllow: GET, HEAD\r\n") == (status == .method))
    }
    let metrics = String(decoding: ScrapeStatus.ok.answer("ä\n"), as: UTF8.self)
    #expect(metrics.hasSuffix("\r\nContent-Length: 3\r\nConnection: close\r\n\r\nä\n"))
    #expect(metrics.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"))
    let head = String(decoding: ScrapeStatus.ok.answer("ä\n", headersOnly: true), as: UTF8.self)
    #expect(head == metrics.replacing("ä\n", with: ""))
  }
}
