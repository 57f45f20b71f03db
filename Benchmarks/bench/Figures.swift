import Linux

/// How long `body` takes, in nanoseconds.
func nanoseconds(_ body: () throws -> Void) rethrows -> Double {
  let start = Instant.now
  try body()
  return Double((Instant.now - start).nanoseconds)
}

extension [Double] {
  var median: Double { quantile(0.5) }

  /// The smallest figure that this share of all does not exceed.
  func quantile(_ share: Double) -> Double {
    let sorted = sorted()
    return sorted[Swift.min(count - 1, Int(Double(count) * share))]
  }
}

/// Pairs of figures that were taken by turns.
struct Pairs {
  private(set) var ours: [Double] = []
  private(set) var theirs: [Double] = []

  /// Takes turns, and who begins changes each time.
  mutating func measure(_ count: Int, _ ours: () throws -> Double, _ theirs: () throws -> Double) rethrows {
    for turn in 0..<count {
      if turn % 2 == 0 {
        self.ours.append(try ours())
        self.theirs.append(try theirs())
      } else {
        self.theirs.append(try theirs())
        self.ours.append(try ours())
      }
    }
  }

  /// The median of the single pairs' ratios.
  var ratio: Double { zip(ours, theirs).map { $0 / $1 }.median }
}

/// `1234.5`
func fixed(_ value: Double, _ digits: Int) -> String {
  var scale = 1
  for _ in 0..<digits { scale *= 10 }
  let scaled = Int((value.magnitude * Double(scale)).rounded())
  let whole = (value < 0 ? "-" : "") + "\(scaled / scale)"
  if digits == 0 { return whole }
  let fraction = "\(scaled % scale)"
  return whole + "." + String(repeating: "0", count: digits - fraction.utf8.count) + fraction
}

/// Three significant digits, or all before the point.
func short(_ value: Double) -> String {
  fixed(value, value.magnitude < 10 ? 2 : value.magnitude < 100 ? 1 : 0)
}

extension String {
  func left(_ width: Int) -> String { self + String(repeating: " ", count: Swift.max(0, width - utf8.count)) }
  func right(_ width: Int) -> String {
    String(repeating: " ", count: Swift.max(0, width - utf8.count)) + self
  }
}

/// One line of the table: a figure with its unit, the peer with its own, and their ratio.
func row(
  _ what: String, _ value: Double, _ unit: String, peer: String, _ theirs: Double? = nil,
  ratio: Double? = nil, _ remark: String = ""
) {
  var line = what.left(44) + short(value).right(9) + " " + unit.left(13) + peer.left(30)
  line += (theirs.map(short) ?? "").right(9) + (ratio.map { fixed($0, 2) } ?? "").right(8)
  print(remark.isEmpty ? line : line + "  " + remark)
}

func heading(_ title: String) {
  print()
  print(title)
  print(
    "measured".left(44) + "figure".right(9) + " " + "unit".left(13) + "peer".left(30) + "peer's".right(9)
      + "ratio".right(8))
}
