internal import Linux

/// How many connections there may be at once, and how many of one user: nobody who connects and says nothing keeps the
/// others out.
struct ConnectionLimits {
  let all: Int
  /// Root and this process's own user, who can end it anyhow.
  private let trusted: Set<UInt32>

  /// Of all others together: the rest is left for those two.
  var ofOthers: Int { all * 3 / 4 }
  /// Of any one of these others.
  var ofOne: Int { ofOthers / 2 }

  init(_ all: Int, own user: UInt32 = effectiveUser()) { (self.all, trusted) = (all, [0, user]) }

  /// What stands against one more connection of a user; nil if nothing does.
  /// - Parameter users: those of the connections that there are.
  func reached(by user: UInt32, beside users: [UInt32]) -> String? {
    if users.count >= all { return "the \(all) connections that there may be" }
    if trusted.contains(user) { return nil }
    if users.count(where: { $0 == user }) >= ofOne {
      return "the \(ofOne) connections that user \(user) may have"
    }
    return users.count(where: { !trusted.contains($0) }) >= ofOthers
      ? "the \(ofOthers) connections that users other than root and the helper's own may have" : nil
  }
}
