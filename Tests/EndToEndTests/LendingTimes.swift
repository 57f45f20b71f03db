import Foundation
import TestSupport
import Testing

extension EndToEnd.Lending {
  /// Calls the agent as an ordinary user of the guest.
  /// - Parameter fields: of the parameters, beside the buffer.
  private func call(_ method: String, _ buffer: String, _ fields: String = "", in guest: RunningGuest) throws
    -> String
  {
    let parameters = #"{"buffer":"\#(buffer)"\#(fields)}"#
    let message = #"{"method":"io.udmabridge.Lender.\#(method)","parameters":\#(parameters)}"#
    return try guest.shell("as user say /run/agent/lender '\(message)'")
  }

  /// Waits until the guest's watcher `w` has told of an event with these words.
  private func expectTold(_ words: String..., in guest: RunningGuest) throws {
    try waitUntil("the guest is told: \(words)") {
      try guest.shell("cat /run/w.out").split(separator: "\n").contains { line in
        words.allSatisfy { line.contains($0) }
      }
    }
  }

  @Test(
    "each side hears of the other's accesses by its processor, and may write nevertheless"
  )
  func access() throws {
    let lender = try LendingGuest(.imports)
    let (guest, part) = (lender.guest, Self.parts[2])
    // The lender wants one writer: it is an agreement, which the host's users keep or do not.
    let (id, _) = try lender.lend("heap", part, seed: 3, as: "b")
    let watcher = try lender.startWatcher()
    try watcher.expect("lent \(id)")
    #expect(
      try guest.shell("hold w as user udmabridge-guest watch --socket /run/agent/lender").contains("ready"))
    let importers = try (0..<2).map { _ in try lender.startImporter(of: id) }

    #expect(try importers[0].tell("begin write") == "done")
    try expectTold(#""event":"accessBegun""#, #""mode":"write""#, in: guest)
    #expect(try importers[1].tell("begin readWrite") == "done")
    try expectTold(#""event":"accessBegun""#, #""mode":"readWrite""#, in: guest)
    #expect(try importers[1].tell("write 0 01fe") == "written")
    #expect(try importers[0].tell("read 0 2") == "01fe")
    try lender.tell("b", "read \(part.offset) 2", "01fe")
    for importer in importers { #expect(try importer.tell("end") == "done") }
    try expectTold(#""event":"accessEnded""#, in: guest)

    #expect(try call("BeginAccess", id, #","mode":"write""#, in: guest) == "{\"parameters\":{}}\n")
    try watcher.expect("accessBegun \(id)")
    #expect(try importers[0].tell("write 0 02") == "written")
    try lender.tell("b", "read \(part.offset) 2", "02fe")
    #expect(try call("EndAccess", id, in: guest) == "{\"parameters\":{}}\n")
    try watcher.expect("accessEnded \(id)")
    for importer in importers { #expect(try importer.tell("release") == "done") }
    try lender.drop("b")
    try expectNothingIsLeft(of: lender)
  }

  @Test("a return can be put off by a day and wait an hour, and can be hurried")
  func returns() throws {
    let lender = try LendingGuest(.imports)
    let guest = lender.guest
    let (id, _) = try lender.lend("heap", Self.parts[2], seed: 3, as: "b")
    let watcher = try lender.startWatcher()
    try watcher.expect("lent \(id)")
    for (name, longest) in [("delay", 86_400_000), ("patience", 3_600_000)] {
      for value in [-1, longest + 1] {
        #expect(
          try call("Return", id, ",\"\(name)\":\(value)", in: guest)
            == "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"\(name)\"}}\n"
        )
      }
    }
    /// How long until the return begins, or importers are cut off.
    func milliseconds() throws -> Int? {
      let (_, output) = try run(Self.tool, ["buffers", "query", "--json", "--control", lender.control, id])
      let facts = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any]
      return (facts?["buffer"] as? [String: Any])?["returns"] as? Int
    }
    #expect(try milliseconds() == nil)
    let importer = try lender.startImporter(of: id)

    // It goes on until tomorrow.
    let longest = #","delay":86400000,"patience":3600000"#
    #expect(try call("Return", id, longest, in: guest) == "{\"parameters\":{}}\n")
    var left = try milliseconds()
    #expect((80_000_000...86_400_000).contains(try #require(left)))
    let second = try lender.startImporter(of: id)
    #expect(second.greeting == "imported 123 4567 lent")

    // It begins now, and an importer has an hour.
    #expect(try call("Return", id, #","patience":3600000"#, in: guest) == "{\"parameters\":{}}\n")
    try watcher.expect("returning \(id)")
    left = try milliseconds()
    #expect((3_000_000...3_600_000).contains(try #require(left)))
    #expect(try lender.startImporter(of: id).greeting == "io.udmabridge.Buffers.IsReturning")
    #expect(try second.tell("release") == "done")

    // It ends now, with the one that has not let go.
    #expect(
      try guest.shell("as user udmabridge-guest return --socket /run/agent/lender --patience 0 \(id)")
        == "returned, importers cut off: 1\n")
    try watcher.expect("returned \(id)")
    #expect(try importer.tell("watch") == "cut off")
    try lender.drop("b")
    try expectNothingIsLeft(of: lender)
  }
}
