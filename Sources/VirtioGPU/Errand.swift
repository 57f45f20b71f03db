internal import Linux

/// A request to the front end, or to the sink, on behalf of a command.
final class Errand {
  enum Answerer {
    /// The front end's channel, which answers requests in order.
    case frontEnd
    case sink
  }

  let answerer: Answerer
  /// The answer that waits for it.
  weak var response: PendingResponse? { didSet { if let result { response?.finish(result) } } }
  /// The result. It can come before an answer waits for it, because writing to the channel can break it.
  private var result: Response?
  /// No answer waits for it any more.
  var isAbandoned = false
  /// The answer in that case. The request is undone, or is done later.
  let ifAbandoned: Response
  /// The size of the longest answer, for which the driver must leave room.
  let longest: Response
  /// How long the command waits for it.
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
