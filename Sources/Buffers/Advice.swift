/// A problem that the user can solve by an option of the program. The libraries do not know these options: they report the
/// problem, and the program adds the remedy.
package enum AdviceSubject: Sendable, Hashable {
  /// A quota would be exceeded.
  case quota(LendError.Quota)
  /// A picture is copied for this reason.
  case copied(ShadowCause.Name)
}

/// The remedy in a few words, such as "raise it with --max-resources"; nil if there is none.
package typealias Advice = (AdviceSubject) -> String?
