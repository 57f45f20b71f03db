internal import Linux

/// A limit for all users together, and one for each user, so that one user cannot keep the others out.
package struct UserShares: Sendable {
  /// The least of `all` that leaves one to every user.
  package static let fewest = 3

  package let all: Int
  /// Root and this process's own user, who can end it anyhow.
  private let trusted: Set<UInt32>

  /// Of all others together: the rest is left for those two.
  private var ofOthers: Int { all * 3 / 4 }
  /// Of any one of these others.
  private var ofOne: Int { ofOthers / 2 }

  package init(_ all: Int, own user: UInt32 = effectiveUser()) { (self.all, trusted) = (all, [0, user]) }

  package func isTrusted(_ user: UInt32) -> Bool { trusted.contains(user) }

  /// The limit that one more would exceed.
  package enum Reached: Equatable, Sendable {
    case all(Int)
    case ofOthers(Int)
    case ofOne(Int, UInt32)

    package var limit: Int {
      switch self {
      case .all(let limit), .ofOthers(let limit), .ofOne(let limit, _): limit
      }
    }

    /// - Parameter things: what there may be so many of, such as `connections`.
    func words(_ things: String) -> String {
      switch self {
      case .all(let limit): "the \(limit) \(things) that there may be"
      case .ofOne(let limit, let user): "the \(limit) \(things) that user \(user) may have"
      case .ofOthers(let limit):
        "the \(limit) \(things) that users other than root and the helper's own may have"
      }
    }
  }

  /// The limit that one more of a user would exceed, or nil.
  /// - Parameter users: those of what there is.
  package func reached(by user: UInt32, beside users: some Collection<UInt32>) -> Reached? {
    if users.count >= all { return .all(all) }
    if isTrusted(user) { return nil }
    if users.count(where: { $0 == user }) >= ofOne { return .ofOne(ofOne, user) }
    return users.count(where: { !isTrusted($0) }) >= ofOthers ? .ofOthers(ofOthers) : nil
  }
}
