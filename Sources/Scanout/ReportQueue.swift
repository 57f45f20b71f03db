/// The results of presentations, until a sink reports them to its observer from the event loop. A caller of a sink is thus
/// never called back during the call.
package final class ReportQueue {
  package enum Report {
    /// The presentation is on the screen, or counts as shown.
    case presented(Presentation)
    /// The presentation of this sequence number will not be shown: another one, or nothing, takes its place.
    case replaced(UInt64)
    case failed(UInt64, SinkError)
  }

  private typealias Entry = (report: Report, scanout: ScanoutID)
  private var waiting: [Entry] = []
  /// An empty list with the capacity of the last one, so that reports allocate nothing.
  private var spare: [Entry] = []

  package init() {}

  package func append(_ report: Report, on scanout: ScanoutID) { waiting.append((report, scanout)) }

  /// Reports everything to the observer, in order. Reports that are appended meanwhile wait for the next call. Without an
  /// observer they are dropped.
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
