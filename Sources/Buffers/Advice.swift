/// What a user can change by an option of the program. The libraries do not know these options: they say what is wrong,
/// and the program says what to do.
package enum AdviceSubject: Sendable, Hashable {
  /// A quota was met.
  case quota(LendError.Quota)
  /// Something is copied for this reason.
  case copied(ShadowCause.Name)
}

/// What to do, in a few words such as "raise it with --max-resources"; nil if there is nothing to be said.
package typealias Advice = (AdviceSubject) -> String?
