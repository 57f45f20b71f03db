/// What became of presentations, until a sink tells its observer from the event loop. So nobody who calls a sink is
/// called back in the middle of that call.
package final class ReportQueue {
  package enum Report {
    /// The presentation is on the screen, or counts as that.
    case presented(Presentation)
    /// The presentation of this sequence number will not be shown: another one, or nothing, takes its place.
    case replaced(UInt64)
    case failed(UInt64, SinkError)
  }

  private typealias Entry = (report: Report, scanout: ScanoutID)
  private var waiting: [Entry] = []
  /// Empty, with the room of what was delivered last, so that reports of each frame allocate nothing.
  private var spare: [Entry] = []

  package init() {}

  package func append(_ report: Report, on scanout: ScanoutID) { waiting.append((report, scanout)) }

  /// Tells the observer everything that was appended, in that order. Reports that are appended meanwhile wait for the
  /// next call. Without an observer the reports are dropped.
  package func deliver(to observer: (any ScanoutObserver)?) {
    if waiting.isEmpty { return }
    var told: [Entry] = []
    swap(&told, &spare)
    swap(&told, &waiting)
    for (report, scanout) in told {
      switch report {
      case .presented(let presentation):
        observer?.presented(presentation.sequence, frame: presentation.frame, on: scanout)
      case .replaced(let sequence): observer?.replaced(sequence, on: scanout)
      case .failed(let sequence, let error): observer?.failed(sequence, on: scanout, error)
      }
    }
    told.removeAll(keepingCapacity: true)
    swap(&told, &spare)
  }
}
