internal import Linux

/// The text format of Prometheus, version 0.0.4.
package enum MetricsText {
  /// Its media type in HTTP.
  package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  /// All metrics of these helpers, each family with its samples together.
  /// - Parameter readings: of domains that have different names.
  package static func write(_ readings: [HelperReading]) -> String {
    var text = ""
    add(.domains, [([], "\(readings.count)")], to: &text)
    add(.up, readings.map { ([domain($0)], (try? $0.answer.get()) == nil ? "0" : "1") }, to: &text)
    add(.duration, readings.map { ([domain($0)], seconds($0.duration)) }, to: &text)
    for family in MetricFamily.ofHelpers {
      add(family, readings.flatMap { samples(of: family, $0) }, to: &text)
    }
    return text
  }

  private typealias Label = (name: String, value: String)
  private typealias Sample = (labels: [Label], value: String)

  private static func domain(_ reading: HelperReading) -> Label { ("domain", reading.place.domain) }

  private static func seconds(_ span: TimeSpan) -> String { "\(Double(max(0, span.nanoseconds)) / 1e9)" }

  private static func samples(of family: MetricFamily, _ reading: HelperReading) -> [Sample] {
    guard let count = try? reading.answer.get() else { return [] }
    guard let label = family.label else {
      return count.number(family.field).map { [([domain(reading)], "\($0)")] } ?? []
    }
    return count.numbers(by: family.field).map { ([domain(reading), (label, $0.name)], "\($0.count)") }
  }

  private static func add(_ family: MetricFamily, _ samples: [Sample], to text: inout String) {
    if samples.isEmpty { return }
    text += "# HELP \(family.name) \(escaped(family.help))\n# TYPE \(family.name) \(family.kind.rawValue)\n"
    for (labels, value) in samples {
      let pairs = labels.map { "\($0.name)=\"\(escaped($0.value, quote: true))\"" }.joined(separator: ",")
      text += family.name + (pairs.isEmpty ? "" : "{\(pairs)}") + " \(value)\n"
    }
  }

  /// Escapes each backslash and line end, and in a label's value also each quotation mark.
  private static func escaped(_ text: String, quote: Bool = false) -> String {
    String(
      text.unicodeScalars.flatMap { scalar -> [Unicode.Scalar] in
        switch scalar {
        case "\\": ["\\", "\\"]
        case "\n": ["\\", "n"]
        case "\"" where quote: ["\\", "\""]
        default: [scalar]
        }
      }.reduce(into: String.UnicodeScalarView()) { $0.append($1) })
  }
}
