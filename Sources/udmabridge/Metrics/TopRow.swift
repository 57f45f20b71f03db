import ArgumentParser
import Linux
import Metrics

/// A row of `udmabridge top` for one domain: the present values, and the rates since the last reading.
struct TopRow: Equatable {
  let domain: String
  /// Why the domain's helper does not answer.
  var silence: String?
  /// Rates per second; nil without an earlier reading of the same helper.
  var frames, coalesced, failed, copied: Double?
  /// Bytes.
  var pinned, copies: UInt64?
  var buffers, holds: UInt64?
  /// Since the helper's start.
  var errors: UInt64?

  init(_ reading: HelperReading, before: HelperReading?) {
    domain = reading.place.domain
    let now: HelperCount
    switch reading.answer {
    case .success(let count): now = count
    case .failure(let error):
      silence = whySilent(error)
      return
    }
    pinned = now.number("device.pinnedBytes")
    copies = now.number("device.shadowBytes")
    buffers = now.number("device.liveDMABufs")
    holds = now.number("control.holds")
    errors = now.numbers(by: "device.protocolErrors").reduce(0) { min($0, .max - $1.count) + $1.count }
    guard let before, let earlier = try? before.answer.get() else { return }
    let elapsed = Double((reading.began - before.began).nanoseconds) / 1e9
    func rate(_ field: String) -> Double? {
      // If a counter has become smaller, another helper answered.
      guard elapsed > 0, let new = now.number(field), let old = earlier.number(field), new >= old else {
        return nil
      }
      return Double(new - old) / elapsed
    }
    frames = rate("device.framesShown")
    coalesced = rate("device.framesCoalesced")
    failed = rate("device.framesFailed")
    copied = rate("device.bytesCopied")
  }
}

/// The column that sorts the rows.
enum TopOrder: String, ExpressibleByArgument, CaseIterable {
  case domain, frames, coalesced, failed, copied, pinned, copies, buffers, holds, errors

  /// The largest number first, names in alphabetical order, helpers that do not answer last.
  func sorted(_ rows: [TopRow]) -> [TopRow] {
    rows.sorted { a, b in
      if (a.silence == nil) != (b.silence == nil) { return a.silence == nil }
      let (first, second) = (value(a), value(b))
      return first == second ? a.domain < b.domain : first > second
    }
  }

  private func value(_ row: TopRow) -> Double {
    switch self {
    case .domain: 0
    case .frames: row.frames ?? 0
    case .coalesced: row.coalesced ?? 0
    case .failed: row.failed ?? 0
    case .copied: row.copied ?? 0
    case .pinned: Double(row.pinned ?? 0)
    case .copies: Double(row.copies ?? 0)
    case .buffers: Double(row.buffers ?? 0)
    case .holds: Double(row.holds ?? 0)
    case .errors: Double(row.errors ?? 0)
    }
  }
}

/// Rows as a table of text.
struct TopTable {
  /// Sorted.
  let rows: [TopRow]

  private static let columns: [(String, Table.Alignment)] = [
    ("DOMAIN", .left), ("FRAMES/S", .right), ("COALESCED/S", .right), ("FAILED/S", .right),
    ("COPIED/S", .right), ("PINNED", .right), ("COPIES", .right), ("BUFFERS", .right), ("HOLDS", .right),
    ("ERRORS", .right), ("", .left),
  ]

  /// The heading and a line for each row.
  var lines: [String] {
    var table = Table(Self.columns)
    table.rows = rows.map { row in
      [
        printable(row.domain), rate(row.frames), rate(row.coalesced), rate(row.failed),
        row.copied.map { bytes(UInt64($0.rounded())) } ?? "-", size(row.pinned), size(row.copies),
        count(row.buffers), count(row.holds), count(row.errors), row.silence.map(printable) ?? "",
      ]
    }
    return table.text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
  }

  private func rate(_ value: Double?) -> String {
    guard let value else { return "-" }
    let tenths = UInt64((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10)"
  }

  private func size(_ value: UInt64?) -> String { value.map(bytes) ?? "-" }

  private func count(_ value: UInt64?) -> String { value.map { "\($0)" } ?? "-" }
}
