internal import Linux

/// Something that the front end, or the sink, was asked for on behalf of a command.
final class Errand {
  enum Answerer {
    /// The front end's channel, which answers one thing after the other.
    case frontEnd
    case sink
  }

  let answerer: Answerer
  /// The answer that waits for it.
  weak var response: PendingResponse? { didSet { if let result { response?.finish(result) } } }
  /// What came of it, which may be before anything waits: a channel breaks when it is written to.
  private var result: Response?
  /// Nobody waits for it any more.
  var isAbandoned = false
  /// What is answered then: what was asked is undone, or is done some time.
  let ifAbandoned: Response
  /// What the driver must leave room for: the longest answer.
  let longest: Response
  /// How long it is waited for.
  let patience: TimeSpan

  init(ifAbandoned: Response, longest: Response? = nil, by answerer: Answerer, patience: TimeSpan) {
    (self.ifAbandoned, self.longest) = (ifAbandoned, longest ?? ifAbandoned)
    (self.answerer, self.patience) = (answerer, patience)
  }

  func finish(_ result: Response) {
    self.result = result
    response?.finish(result)
  }
}
