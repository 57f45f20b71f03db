import Fixtures
import Foundation
import Glibc
import Linux
import SystemPackage
import TestSupport
import Testing
import Varlink

@testable import Metrics

/// How helpers are asked, and what becomes of those that lie, stop, flood or die.
@Suite final class HelperPollTests {
  private let directory: FilePath
  private let loop: EventLoop

  init() throws {
    directory = try makeTemporaryDirectory()
    loop = try EventLoop()
  }

  deinit { _ = try? FileManager.default.removeItem(atPath: directory.string) }

  private func ask(
    _ places: [HelperPlace], patience: TimeSpan = Patience.limit, _ meanwhile: () throws -> Void = {}
  ) throws -> [HelperReading] {
    let poll = try HelperPoll(loop, patience: patience)
    var readings: [HelperReading]?
    poll.ask(places) { readings = $0 }
    try meanwhile()
    try loop.turn(until: "all have been asked") { readings != nil }
    #expect(!poll.isBusy)
    return readings ?? []
  }

  struct Case: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let behaviour: FakeHelper.Behaviour
    /// A part of the reason why there is nothing; nil where there is something.
    let why: String?
    /// It is waited for until the time is up.
    var isLate = false
    init(_ name: String, _ behaviour: FakeHelper.Behaviour, _ why: String?, isLate: Bool = false) {
      (testDescription, self.behaviour, self.why, self.isLate) = (name, behaviour, why, isLate)
    }

    /// With these fields of the device.
    init(_ name: String, device: String, _ why: String?) {
      self.init(name, .answers(FakeHelper.reply(#"{"device":{\#(device)},"control":{}}"#)), why)
    }
  }

  private static func group(_ count: Int) -> String {
    "{\((0..<count).map { "\"kind\($0)\":1" }.joined(separator: ","))}"
  }

  static let cases: [Case] = [
    .init("a helper", .answers(FakeHelper.good), nil),
    .init("one that passes a descriptor", .passes(FakeHelper.good), nil),
    .init("an older one, which counts nothing of these", device: "", nil),
    .init("a newer one, which counts more", device: #""flushes":1,"new":2,"more":{"a":{"b":1}}"#, nil),
    .init("the largest number", device: #""flushes":18446744073709551615"#, nil),
    .init("64 kinds", device: #""shadows":\#(group(64))"#, nil),
    .init("a name of 64 bytes", device: #""shadows":{"\#(String(repeating: "x", count: 64))":1}"#, nil),

    .init("no JSON", .answers(Array("hello\0".utf8)), "not a varlink reply"),
    .init("no text", .answers([0xff, 0xfe, 0]), "not a varlink reply"),
    .init("nothing at all", .answers([0]), "not a varlink reply"),
    .init("a list", .answers(Array("[]\0".utf8)), "not a varlink reply"),
    .init("no parameters", .answers(Array("{}\0".utf8)), "not a varlink reply"),
    .init(
      "more levels than a reader has room for",
      .answers(
        FakeHelper.reply(
          String(repeating: #"{"a":"#, count: 5000) + "1" + String(repeating: "}", count: 5000))),
      "not a varlink reply"),
    .init(
      "an error", .answers(Array(#"{"error":"org.varlink.service.MethodNotFound"}\#0"#.utf8)),
      "answered org.varlink.service.MethodNotFound"),
    .init("no device", .answers(FakeHelper.reply(#"{"control":{}}"#)), "says of device"),
    .init(
      "a device that is a number", .answers(FakeHelper.reply(#"{"device":1,"control":{}}"#)), "says of device"
    ),
    .init("no control", .answers(FakeHelper.reply(#"{"device":{}}"#)), "says of control"),
    .init("a number below zero", device: #""flushes":-1"#, "not a varlink reply"),
    .init("a part of a number", device: #""flushes":1.5"#, "not a varlink reply"),
    .init("a number that is too large", device: #""flushes":18446744073709551616"#, "not a varlink reply"),
    .init("a text", device: #""flushes":"1""#, "not a varlink reply"),
    .init("a truth", device: #""flushes":true"#, "not a varlink reply"),
    .init("nothing for a number", device: #""flushes":null"#, "not a varlink reply"),
    .init("several for one", device: #""flushes":{"a":1}"#, "says of device.flushes"),
    .init("one for several", device: #""shadows":1"#, "says of device.shadows"),
    .init("several for each of several", device: #""shadows":{"a":{"b":1}}"#, "says of device.shadows"),
    .init("65 kinds", device: #""protocolErrors":\#(group(65))"#, "says of device.protocolErrors"),
    .init(
      "a name of 65 bytes", device: #""shadows":{"\#(String(repeating: "x", count: 65))":1}"#,
      "says of device.shadows"),
    .init("no name", device: #""shadows":{"":1}"#, "says of device.shadows"),
    .init("a name that ends a label", device: #""shadows":{"a\"} 1\nx{b=\"":1}"#, "says of device.shadows"),
    .init("a name in other letters", device: #""shadows":{"ä":1}"#, "says of device.shadows"),

    .init("it dies at once", .closes, "closed the connection"),
    .init("it dies when it is asked", .breaksOff([]), "closed the connection"),
    .init("it dies in its answer", .breaksOff(Array(FakeHelper.good.dropLast(9))), "closed the connection"),
    .init("it answers and dies", .breaksOff(FakeHelper.good), nil),
    .init("it floods", .floods, "more than 65536 bytes"),
    .init("it says nothing", .silent, "has not answered in 20 ms", isLate: true),
    .init(
      "it answers in part", .answers(Array(FakeHelper.good.dropLast())), "has not answered in 20 ms",
      isLate: true),
    .init("it is stopped", .isStopped, "has not answered in 20 ms", isLate: true),
  ]

  @Test(
    "a helper's answer is read or refused with the reason, and the one beside it is read", arguments: cases)
  func answers(_ example: Case) throws {
    let helper = try FakeHelper(directory.appending("a"), example.behaviour, loop: loop)
    let other = try FakeHelper(directory.appending("b"), .answers(FakeHelper.good), loop: loop)
    let places = [("a", helper), ("b", other)].map { HelperPlace(domain: $0, control: $1.path) }
    let readings: [HelperReading]
    if example.isLate {
      // The other one may need more time than that on a busy machine.
      readings = try ask([places[0]], patience: .milliseconds(20)) + ask([places[1]])
    } else {
      readings = try ask(places)
    }
    #expect(readings.map(\.place) == places)
    #expect(try readings[1].answer.get().number("device.flushes") == 3)
    switch (readings[0].answer, example.why) {
    case (.success, nil): break
    case (.failure(let error), let why?): #expect("\(error)".contains(why), "\(error)")
    default: Issue.record("\(readings[0].answer)")
    }
  }

  @Test("without a socket that serves, the reason says what is there")
  func nobody() throws {
    try writeText(directory.appending("file"), "x")
    do { _ = try UnixSocket.listen(directory.appending("stale")) }
    try waitUntil("nobody has it open") { UnixSocket.isStale(directory.appending("stale")) }
    let long = directory.appending(String(repeating: "x", count: 150))
    let readings = try ask(
      ["missing", "file", "stale"].map { HelperPlace(domain: $0, control: directory.appending($0)) }
        + [HelperPlace(domain: "long", control: long)])
    let reasons = readings.map { reading -> String in
      if case .failure(let error) = reading.answer { "\(error)" } else { "" }
    }
    #expect(reasons[0] == "there is no control socket \(directory)/missing")
    #expect(reasons[1].contains("\(directory)/file") && reasons[2].contains("no program serves"))
    #expect(reasons[3].contains("cannot be used"))
    #expect(try ask([]).isEmpty)
  }

  @Test("a helper whose queue is full is given up")
  func fullQueue() throws {
    let helper = try FakeHelper(directory.appending("a"), .isStopped, loop: loop)
    let place = HelperPlace(domain: "a", control: helper.path)
    var waiting: [HelperPoll] = []
    for _ in 0..<8 {
      let poll = try HelperPoll(loop)
      poll.ask([place]) { _ in }
      waiting.append(poll)
    }
    let readings = try ask([place])
    guard case .failure(.call(.connecting(_, .timedOut))) = readings[0].answer else {
      Issue.record("\(readings[0].answer)")
      return
    }
  }

  @Test("all helpers are asked at once, and a silent one delays no other")
  func atOnce() throws {
    let silent = try FakeHelper(directory.appending("a"), .silent, loop: loop)
    let others = try (0..<20).map {
      try FakeHelper(directory.appending("b\($0)"), .answers(FakeHelper.good), loop: loop)
    }
    let places = ([silent] + others).map { HelperPlace(domain: $0.path.string, control: $0.path) }
    let readings = try ask(places) {
      try loop.turn(until: "the others have been asked") { others.allSatisfy { $0.calls == 1 } }
      silent.speak()
    }
    #expect(readings.map(\.place) == places)
    #expect(readings.allSatisfy { (try? $0.answer.get()) != nil })
  }

  @Test("a poll that is dropped tells nothing")
  func dropped() throws {
    let helper = try FakeHelper(directory.appending("a"), .silent, loop: loop)
    var poll: HelperPoll? = try HelperPoll(loop, patience: Patience.limit)
    poll?.ask([HelperPlace(domain: "a", control: helper.path)]) { _ in Issue.record("it is told") }
    try loop.turn(until: "it was asked") { helper.calls == 1 }
    poll = nil
    helper.speak()
    try loop.turn(waiting: .zero)
  }
}
