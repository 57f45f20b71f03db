import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import Metrics

/// `GET /metrics` on a socket, and callers that lie, stop, flood or die.
@Suite final class MetricsServerTests {
  private let directory: FilePath
  private let loop: EventLoop
  private let helper: FakeHelper
  private var server: MetricsServer!
  private var places: [HelperPlace]
  private var socket: FilePath { directory.appending("scrape") }
  private static let request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

  init() throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
    helper = try FakeHelper(directory.appending("helper"), .silent, loop: loop)
    places = []
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  /// - Parameter patience: with callers; longer than any test takes, so that none depends on how busy the machine is.
  private func serve(patience: TimeSpan = .seconds(3600)) throws {
    server = try MetricsServer(
      UnixSocket.listen(socket), loop: loop, patience: patience,
      poll: HelperPoll(loop, patience: .seconds(3600)), places: { [unowned self] in places })
  }

  /// The helper is asked, and answers when it is told to.
  private func withHelper() { places = [HelperPlace(domain: "web", control: helper.path)] }

  /// Somebody who wants metrics.
  private final class Scraper {
    let socket: UnixSocket
    private(set) var answer: [UInt8] = []
    private(set) var isOver = false
    var text: String { String(decoding: answer, as: UTF8.self) }
    var status: String { String(text.prefix { $0 != "\r\n" }) }

    init(_ path: FilePath) throws {
      socket = try UnixSocket.connect(path)
      try socket.fd.setNonblocking()
    }

    deinit { die() }

    func die() { socket.shutDown() }

    /// - Returns: how much went.
    @discardableResult
    func send(_ text: String) -> Int { (try? unsafe socket.send(Array(text.utf8).span.bytes)) ?? 0 }

    /// Takes what has come.
    /// - Returns: whether that was all.
    func read() -> Bool {
      var descriptors = ReceivedDescriptors()
      while !isOver {
        do throws(Errno) {
          isOver = try socket.receive(into: &answer, upTo: 65536, descriptors: &descriptors) == 0
        } catch {
          if error == .wouldBlock { break }
          isOver = true
        }
      }
      return isOver
    }
  }

  private func answer(to text: String) throws -> Scraper {
    let scraper = try Scraper(socket)
    scraper.send(text)
    try loop.turn(until: "it is answered") { scraper.read() }
    return scraper
  }

  private func waitForTheEnd() throws {
    try loop.turn(until: "no connection is left") { server.connectionCount == 0 }
  }

  @Test(
    "each request gets one answer, and then its connection ends",
    arguments: [
      ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK"),
      ("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK"),
      ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK"),
      ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404 Not Found"),
      ("PUT /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
      ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"), ("\u{16}\u{3}", "HTTP/1.1 400 Bad Request"),
      ("PRI * HTTP/2.0\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported"),
    ])
  func status(_ request: String, _ status: String) throws {
    try serve()
    let scraper = try answer(to: request)
    #expect(scraper.status == status)
    let body = scraper.text.split(separator: "\r\n\r\n", maxSplits: 1).dropFirst().joined()
    #expect(body.contains("udmabridge_domains 0\n") == (status.hasSuffix("OK") && request.hasPrefix("GET")))
    #expect(body.isEmpty == request.hasPrefix("HEAD"))
    scraper.die()
    try waitForTheEnd()
  }

  @Test("a request may come byte by byte, and its caller may then send no more")
  func slowly() throws {
    try serve()
    let scraper = try Scraper(socket)
    for character in Self.request.unicodeScalars {
      scraper.send(String(character))
      try loop.turn(waiting: .zero)
    }
    scraper.socket.endSending()
    try loop.turn(until: "it is answered") { scraper.read() }
    #expect(scraper.status == "HTTP/1.1 200 OK")
    try waitForTheEnd()
  }

  @Test("the answer has the helpers' numbers, and several callers share one poll")
  func sharing() throws {
    withHelper()
    try serve()
    let scrapers = try (0..<3).map { _ in try Scraper(socket) }
    for scraper in scrapers { scraper.send(Self.request) }
    try loop.turn(until: "all are there") { server.connectionCount == 3 && helper.calls == 1 }
    // Their requests have been read by then.
    for _ in 0..<10 { try loop.turn(waiting: .zero) }
    helper.speak()
    for scraper in scrapers {
      try loop.turn(until: "it is answered") { scraper.read() }
      #expect(scraper.text.contains("\nudmabridge_flushes_total{domain=\"web\"} 3\n"))
    }
    #expect(helper.calls == 1)
  }

  @Test("bytes behind a request are dropped, and the answer arrives")
  func behind() throws {
    try serve()
    let scraper = try answer(to: Self.request + String(repeating: "x", count: 20_000))
    #expect(scraper.status == "HTTP/1.1 200 OK" && scraper.text.hasSuffix("udmabridge_domains 0\n"))
  }

  @Test("a caller that sends without an end is told so, and disconnected", arguments: ["x", "x: y\r\n"])
  func flood(_ piece: String) throws {
    try serve()
    let scraper = try Scraper(socket)
    scraper.send("GET /metrics HTTP/1.1\r\n")
    let chunk = String(repeating: piece, count: 4096 / piece.utf8.count)
    var sent = 0
    try loop.turn(until: "it is disconnected") {
      sent += scraper.send(chunk)
      return server.connectionCount == 0 && sent > 8192
    }
    _ = scraper.read()
    #expect(scraper.status == "HTTP/1.1 431 Request Header Fields Too Large")
    #expect(try answer(to: Self.request).status == "HTTP/1.1 200 OK")
  }

  @Test(
    "a caller that stops in its request is disconnected when the time is up",
    arguments: ["", "G", "GET /metrics HTTP/1.1\r\nHost:"])
  func stops(_ part: String) throws {
    try serve(patience: .milliseconds(20))
    let scraper = try Scraper(socket)
    scraper.send(part)
    try loop.turn(until: "it is disconnected") { scraper.read() }
    #expect(scraper.status == "HTTP/1.1 408 Request Timeout")
    try waitForTheEnd()
  }

  @Test("a caller that does not read is disconnected when the time is up")
  func doesNotRead() throws {
    // More than a socket holds.
    places = (0..<5000).map { HelperPlace(domain: "domain \($0)", control: FilePath("/nowhere/\($0)")) }
    try serve(patience: .milliseconds(20))
    let scraper = try Scraper(socket)
    // On a machine that is too busy the time is up before the request has come.
    while server.connectionCount == 0 {
      scraper.send(Self.request)
      try loop.turn(waiting: .zero)
    }
    try waitForTheEnd()
    #expect(scraper.read())
    #expect(!scraper.text.hasSuffix("udmabridge_scrape_duration_seconds{domain=\"domain 4999\"} 0\n"))
    #expect(scraper.answer.count < 400_000)
  }

  @Test("a caller gets all of an answer that is more than a socket holds")
  func readsSlowly() throws {
    places = (0..<5000).map { HelperPlace(domain: "domain \($0)", control: FilePath("/nowhere/\($0)")) }
    try serve()
    let scraper = try answer(to: Self.request)
    let body = scraper.text.split(separator: "\r\n\r\n", maxSplits: 1)[1]
    #expect(body.utf8.count > 400_000)
    #expect(scraper.text.contains("\r\nContent-Length: \(body.utf8.count)\r\n"))
    #expect(
      body.split(separator: "\n").count { $0.hasPrefix("udmabridge_up{") && $0.hasSuffix("} 0") } == 5000)
  }

  enum Moment: CaseIterable { case connected, halfRequest, waiting, answered }

  @Test(
    "a caller that dies at any moment leaves nothing, and the next one is served", arguments: Moment.allCases)
  func dies(_ moment: Moment) throws {
    if moment == .waiting { withHelper() }
    try serve()
    do {
      let scraper = try Scraper(socket)
      switch moment {
      case .connected: break
      case .halfRequest: scraper.send("GET /met")
      case .waiting, .answered: scraper.send(Self.request)
      }
      try loop.turn(until: "it is there") { server.connectionCount == 1 }
      if moment == .waiting { try loop.turn(until: "the helper is asked") { helper.calls == 1 } }
      scraper.die()
    }
    try waitForTheEnd()
    helper.speak()
    if moment == .waiting {
      // Nobody wants this answer any more, and it is none of the next caller's trouble.
      let next = try Scraper(socket)
      next.send(Self.request)
      try loop.turn(until: "it is answered") { next.read() }
      #expect(next.text.contains("udmabridge_up{domain=\"web\"} 1\n"))
    } else {
      #expect(try answer(to: Self.request).status == "HTTP/1.1 200 OK")
    }
  }

  @Test("a connection beyond the limit is told to try again, until another one ends")
  func tooMany() throws {
    try serve()
    var scrapers = try (0..<MetricsServer.connectionLimit).map { _ in
      let scraper = try Scraper(socket)
      // The kernel keeps few that were not accepted.
      try loop.turn(until: "it is accepted") { server.connectionCount > 0 }
      try loop.turn(waiting: .zero)
      return scraper
    }
    try loop.turn(until: "all are there") { server.connectionCount == MetricsServer.connectionLimit }
    #expect(try answer(to: "").status == "HTTP/1.1 503 Service Unavailable")
    scrapers.removeLast().die()
    try loop.turn(until: "it is gone") { server.connectionCount < MetricsServer.connectionLimit }
    #expect(try answer(to: Self.request).status == "HTTP/1.1 200 OK")
    #expect(scrapers.allSatisfy { !$0.read() })
  }

  /// A machine may have no IPv6.
  private static let addresses = Loopback.allCases.filter { $0 == .v4 || (try? $0.listen(port: 0)) != nil }

  @Test("a loopback address listens on a port that it tells, and that is then in use", arguments: addresses)
  func loopback(_ address: Loopback) throws {
    let listening = try address.listen(port: 0)
    let port = try listening.port
    #expect(port > 0)
    #expect(throws: Errno.addressInUse) { _ = try address.listen(port: port) }
  }
}
