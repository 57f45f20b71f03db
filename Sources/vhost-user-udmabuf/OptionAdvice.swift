import Buffers

/// The options that help against problems in the log.
func optionAgainst(_ subject: AdviceSubject) -> String? {
  switch subject {
  case .quota(let quota):
    switch quota {
    case .resources: "raise it with --max-resources"
    case .pinnedBytes: "raise it with --max-pinned"
    case .entries: "raise it with --max-entries"
    case .bookkeepingBytes: "raise it with --max-bookkeeping"
    case .shadowBytes: "raise it with --max-shadow"
    }
  case .copied(.noCursorPlane): "--cursor plane or --cursor off avoids the copy, without a cursor"
  case .copied(.chosen): "--backing auto lends where lending is possible"
  case .copied: nil
  }
}
