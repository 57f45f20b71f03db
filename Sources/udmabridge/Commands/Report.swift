/// The result of one check.
struct Check: Encodable, Equatable {
  enum Status: String, Encodable {
    case ok
    /// The thing works, but not for everything.
    case limited
    case failed
  }

  let name: String
  let status: Status
  /// What was found.
  let found: String
  /// How to mend it; nil if nothing is wrong.
  var remedy: String?
}

/// All results of `doctor` or `libvirt check`, for people and for programs.
struct Report: Encodable {
  var checks: [Check] = []

  var failed: Bool { checks.contains { $0.status == .failed } }

  mutating func ok(_ name: String, _ found: String) {
    checks.append(Check(name: name, status: .ok, found: found))
  }

  mutating func limited(_ name: String, _ found: String, remedy: String) {
    checks.append(Check(name: name, status: .limited, found: found, remedy: remedy))
  }

  mutating func failed(_ name: String, _ found: String, remedy: String) {
    checks.append(Check(name: name, status: .failed, found: found, remedy: remedy))
  }

  /// A line for each check, and one more for each remedy.
  var text: String {
    let width = checks.map(\.name.count).max() ?? 0
    return checks.map { check in
      let name = check.name + String(repeating: " ", count: width - check.name.count)
      let line = "\(check.status.mark)  \(name)  \(check.found)"
      let indent = String(repeating: " ", count: check.status.mark.count + width + 4)
      return check.remedy.map { "\(line)\n\(indent)-> \($0)" } ?? line
    }.joined(separator: "\n")
  }
}

extension Check.Status {
  fileprivate var mark: String {
    switch self {
    case .ok: "ok     "
    case .limited: "limited"
    case .failed: "FAILED "
    }
  }
}
