/// The request in the first bytes of a connection, by the part of HTTP/1.1 (RFC 9112) that clients of metrics need.
package enum ScrapeRequest: Equatable, Sendable {
  /// The request is not complete yet.
  case incomplete
  /// `GET /metrics`, or `HEAD`.
  case metrics(headersOnly: Bool)
  case refused(ScrapeStatus, headersOnly: Bool = false)

  /// In bytes: the request line and all headers.
  package static let longest = 8 << 10

  /// - Parameter bytes: all bytes that have come.
  package static func read(_ bytes: [UInt8]) -> ScrapeRequest {
    // An empty line before a request is skipped (RFC 9112, 2.2).
    let start = bytes.starts(with: crlf) ? 2 : 0
    // The first byte tells TLS and other protocols from HTTP. They are refused at once.
    if bytes.count > start, !isTokenByte(bytes[start]), bytes[start...] != crlf[..<1] {
      return .refused(.badRequest)
    }
    var lines: [ArraySlice<UInt8>] = []
    var rest = bytes[start...]
    while let end = rest.firstIndex(of: UInt8(ascii: "\n")), end < start + longest {
      var line = rest[..<end]
      // A line may end without CR (RFC 9112, 2.2).
      if line.last == UInt8(ascii: "\r") { line = line.dropLast() }
      rest = rest[(end + 1)...]
      if line.isEmpty { return answer(to: lines) }
      lines.append(line)
    }
    return bytes.count - start > longest ? .refused(.tooLarge) : .incomplete
  }

  private static let crlf: [UInt8] = [0x0d, 0x0a]

  private static func answer(to lines: [ArraySlice<UInt8>]) -> ScrapeRequest {
    guard let first = lines.first, lines.allSatisfy({ $0.allSatisfy(isTextByte) }) else {
      return .refused(.badRequest)
    }
    let words = first.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
    guard words.count == 3, !words[0].isEmpty, words[0].allSatisfy(isTokenByte), !words[1].isEmpty else {
      return .refused(.badRequest)
    }
    // HTTP/ and two digits around a dot (RFC 9112, 2.3).
    let version = Array(words[2])
    guard version.count == 8, version.starts(with: "HTTP/".utf8), isDigit(version[5]),
      version[6] == UInt8(ascii: "."), isDigit(version[7])
    else { return .refused(.badRequest) }
    guard version[5] == UInt8(ascii: "1") else { return .refused(.version) }
    var hosts = 0
    for line in lines.dropFirst() {
      // No line is continued by the next one, and no blank is before the colon (RFC 9112, 5.1 and 5.2).
      guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex,
        line[..<colon].allSatisfy(isTokenByte)
      else { return .refused(.badRequest) }
      if String(decoding: line[..<colon], as: UTF8.self).lowercased() == "host" { hosts += 1 }
    }
    // RFC 9112, 3.2.
    guard hosts == 1 || hosts == 0 && version[7] == UInt8(ascii: "0") else { return .refused(.badRequest) }
    let method = String(decoding: words[0], as: UTF8.self)
    let headersOnly = method == "HEAD"
    guard path(of: String(decoding: words[1], as: UTF8.self)) == "/metrics" else {
      return .refused(.notFound, headersOnly: headersOnly)
    }
    guard method == "GET" || headersOnly else { return .refused(.method) }
    return .metrics(headersOnly: headersOnly)
  }

  /// The path of a request's target, also of one with the server's name, as proxies write it (RFC 9112, 3.2).
  private static func path(of target: String) -> Substring {
    var rest = target[...]
    if rest.lowercased().hasPrefix("http://") {
      rest = rest.dropFirst("http://".count)
      rest = rest[(rest.firstIndex(of: "/") ?? rest.endIndex)...]
    }
    return rest.prefix { $0 != "?" }
  }

  private static func isDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
  }

  /// RFC 9110, 5.6.2.
  private static func isTokenByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
    }
  }

  /// Whether a byte may be in a line: all but controls other than tabs.
  private static func isTextByte(_ byte: UInt8) -> Bool { byte == 0x09 || byte >= 0x20 && byte != 0x7f }
}

/// The answer's status; the numbers are HTTP's (RFC 9110, 15).
package enum ScrapeStatus: Int, Sendable {
  case ok = 200
  case badRequest = 400
  case notFound = 404
  case method = 405
  case late = 408
  case tooLarge = 431
  case busy = 503
  case version = 505

  private var words: String {
    switch self {
    case .ok: "OK"
    case .badRequest: "Bad Request"
    case .notFound: "Not Found"
    case .method: "Method Not Allowed"
    case .late: "Request Timeout"
    case .tooLarge: "Request Header Fields Too Large"
    case .busy: "Service Unavailable"
    case .version: "HTTP Version Not Supported"
    }
  }

  /// For people.
  private var sentence: String {
    switch self {
    case .ok: ""
    case .badRequest: "this is not a request of HTTP/1.1"
    case .notFound: "there is only /metrics"
    case .method: "only GET and HEAD can read /metrics"
    case .late: "the request was not complete in time"
    case .tooLarge: "a request may have at most \(ScrapeRequest.longest) bytes"
    case .busy: "too many connections: try again"
    case .version: "this server speaks HTTP/1.1"
    }
  }

  /// The whole answer, after which the connection ends.
  /// - Parameter metrics: the body of a good answer; the body of any other one names the fault.
  func answer(_ metrics: String? = nil, headersOnly: Bool = false) -> [UInt8] {
    let body = metrics ?? sentence + "\n"
    let type = metrics == nil ? "text/plain; charset=utf-8" : MetricsText.contentType
    let allow = self == .method ? "Allow: GET, HEAD\r\n" : ""
    let head =
      "HTTP/1.1 \(rawValue) \(words)\r\nContent-Type: \(type)\r\nContent-Length: \(body.utf8.count)\r\n"
      + "\(allow)Connection: close\r\n\r\n"
    return Array((head + (headersOnly ? "" : body)).utf8)
  }
}
