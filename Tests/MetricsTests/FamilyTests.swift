import Buffers
import DisplayProtocol
import Foundation
import Linux
import Port
import SystemPackage
import TestSupport
import Testing
import Varlink

@testable import Lending
@testable import Metrics

/// The metrics as a list: what is told, and what it is called.
@Suite struct FamilyTests {
  /// The names of a value's fields, as they go over the control socket.
  private static func fields(_ value: some Encodable) throws -> [String] {
    let object = try JSONSerialization.jsonObject(with: JSONEncoder().encode(value)) as? [String: Any]
    return Array(try #require(object).keys)
  }

  private static func fields(writing value: some JSONWritable) throws -> [String] {
    var writer = JSONWriter()
    value.write(to: &writer)
    let object = try JSONSerialization.jsonObject(with: Data(writer.bytes)) as? [String: Any]
    return Array(try #require(object).keys)
  }

  @Test("each field of a helper's statistics has one metric, and each metric has its field")
  func fields() throws {
    let all =
      try Self.fields(Statistics()).map { "device.\($0)" }
      + Self.fields(LendingStatistics()).map { "device.lending.buffers.\($0)" }
      + Self.fields(PortStatistics()).map { "device.lending.port.\($0)" }
      + Self.fields(writing: ControlStatistics()).map { "control.\($0)" }
    #expect(all.count > 30)
    #expect(MetricFamily.ofHelpers.map(\.field).sorted() == all.sorted())
  }

  @Test("a field with several numbers has a label, and no other field")
  func labels() throws {
    func groups(_ value: some Encodable, _ place: String) throws -> [String] {
      let object = try JSONSerialization.jsonObject(with: JSONEncoder().encode(value)) as? [String: Any]
      return try #require(object).filter { $0.value is [String: Any] }.map { "\(place).\($0.key)" }
    }
    let grouped = try groups(Statistics(), "device") + groups(PortStatistics(), "device.lending.port")
    #expect(grouped.count == 3)
    #expect(MetricFamily.ofHelpers.filter { $0.label != nil }.map(\.field).sorted() == grouped.sorted())
  }

  @Test("metrics have the names and units that Prometheus wants, and an explanation each")
  func names() throws {
    let families = [MetricFamily.domains, .up, .duration] + MetricFamily.ofHelpers
    #expect(Set(families.map(\.name)).count == families.count)
    #expect(Set(families.map(\.help)).count == families.count)
    for family in families {
      #expect(family.name.wholeMatch(of: /udmabridge(_[a-z]+)+/) != nil, "\(family.name)")
      // A counter ends so, and nothing else does.
      #expect(family.name.hasSuffix("_total") == (family.kind == .counter), "\(family.name)")
      // The unit is the base unit, behind everything else.
      let words = family.name.split(separator: "_").filter { $0 != "total" }
      for unit in ["bytes", "seconds"] {
        #expect(words.dropLast().allSatisfy { $0 != unit }, "\(family.name)")
      }
      for other in ["kilobytes", "kib", "mib", "milliseconds", "ms", "ns", "counter", "gauge", "count"] {
        #expect(!words.contains(Substring(other)), "\(family.name)")
      }
      let speaksOfBytes = family.field.lowercased().contains("bytes")
      #expect((words.last == "bytes") == speaksOfBytes, "\(family.name)")
      #expect(family.help.hasSuffix(".") && !family.help.contains("\n") && !family.help.contains("\\"))
      if let label = family.label { #expect(label.wholeMatch(of: /[a-z]+/) != nil && label != "domain") }
    }
  }

  @Test("docs/metrics.md lists each metric with its type, and no other")
  func page() throws {
    let text = try readText(repository.appending("docs/metrics.md"), upTo: 1 << 20)
    let rows = text.matches(of: /(?m)^\| `(\w+)`(?: by `(\w+)`)? \| (\w+) \|/).map {
      "\($0.1) \($0.2 ?? "") \($0.3)"
    }
    let families = [MetricFamily.domains, .up, .duration] + MetricFamily.ofHelpers
    #expect(rows == families.map { "\($0.name) \($0.label ?? "") \($0.kind.rawValue)" })
    // Those that are named elsewhere.
    let names = Set(families.map(\.name))
    for name in text.matches(of: /udmabridge(?:_[a-z]+)+\b/) {
      #expect(names.contains(String(name.0)), "\(name.0)")
    }
  }
}
