internal import Lending
internal import LendingProtocol

/// A listener of a registry that reads when it likes. What it is told is held against a model: as it comes, and whenever nothing
/// is left to be told.
final class LendingListener {
  private struct Known {
    var isOver = false
    var isReturning: Bool
    var isAccessed: Bool
    var importers = 0
    var fills: Int
    var metadataChanges: Int
    var aborts: Int
  }

  let feed: LendingFeed
  private let model: LendingModel
  private let report: (String) -> Void
  private var known: [BufferID: Known] = [:]
  /// Of the buffers that were there when it came: how many fills and dead fillers were before.
  private let before: [BufferID: (fills: Int, aborts: Int)]
  /// These were over when it came.
  private let past: Set<BufferID>
  /// It was called, or has not read all.
  private var isAwake = true

  init(_ audience: LendingFeed.Audience, _ model: LendingModel, _ report: @escaping (String) -> Void) {
    (feed, self.model, self.report) = (LendingFeed(audience), model, report)
    before = Dictionary(uniqueKeysWithValues: model.live.map { ($0.id, ($0.fills, $0.aborts)) })
    past = Set(model.all.filter(\.isOver).map(\.id))
    feed.whenNews = { [unowned self] in isAwake = true }
  }

  private var isLender: Bool { if case .lender = feed.audience { true } else { false } }

  private func concerns(_ lent: LendingModel.Lent) -> Bool {
    switch feed.audience {
    case .lender(let session): lent.owner.session == session
    case .importer(let caller): model.admits(caller, to: lent)
    }
  }

  /// Reads some events.
  func read(_ count: Int) {
    for _ in 0..<count {
      guard let event = feed.next() else { return checkAll() }
      hear(event)
    }
  }

  func check() { if !feed.isEmpty && !isAwake { report("a listener was not called") } }

  private func hear(_ event: LendingEvent) {
    let id = event.buffer.id
    guard let lent = model.all.first(where: { $0.id == id }) else {
      return report("news of an unknown buffer")
    }
    func expect(_ condition: Bool, _ what: String) { if !condition { report("\(event.news): \(what)") } }
    expect(concerns(lent), "a listener hears of what is none of its business")
    expect(event.lost == 0 || event.news == .filled, "only fills are lost")
    expect(
      known[id] != nil || isLender || event.news == .lent, "the first word of a buffer is that it is lent")
    var item = known[id] ?? beginning(of: lent)
    expect(!item.isOver, "a buffer is over, and something comes after it")
    let isAccessed = isLender ? lent.uses.contains { $0.access != nil } : lent.access != nil
    switch event.news {
    case .lent: item.isReturning = lent.isReturning
    case .metadata: item.metadataChanges = lent.metadataChanges
    case .importers: item.importers = lent.uses.count
    case .accessBegun, .importerAccessBegun:
      expect(isAccessed, "nobody uses it by the CPU")
      item.isAccessed = true
    case .accessEnded, .importerAccessEnded:
      expect(!isAccessed, "somebody uses it by the CPU")
      item.isAccessed = false
    case .filled:
      item.fills += event.lost + 1
      expect(item.fills == lent.fills, "\(item.fills) fills of \(lent.fills) were told or are lost")
    case .fillAborted: item.aborts = lent.aborts
    case .returning:
      expect(lent.isReturning, "it does not return")
      item.isReturning = true
    case .over:
      expect(lent.isOver, "it is not over")
      item.isOver = true
    default: report("news of several kinds")
    }
    known[id] = item
  }

  /// Nothing is left to be told: it knows all that is to be known.
  private func checkAll() {
    isAwake = false
    if !feed.isEmpty { report("a feed with news has nothing to tell") }
    for lent in model.all where concerns(lent) && !past.contains(lent.id) {
      func expect(_ condition: Bool, _ what: String) {
        if !condition { report("buffer \(lent.id): a listener that has read all does not know \(what)") }
      }
      // What a lender has lent it knows; others do not hear of what came and went.
      guard let item = known[lent.id] ?? (isLender ? beginning(of: lent) : nil) else {
        expect(lent.isOver, "it")
        continue
      }
      expect(item.isOver == lent.isOver, "its end")
      expect(item.fills == lent.fills, "its fills")
      if lent.isOver { continue }
      expect(item.aborts == lent.aborts || lent.lastAbort < lent.fills, "that its filler went away")
      if isLender {
        expect(item.importers == lent.uses.count, "its importers")
        expect(item.isAccessed == lent.uses.contains { $0.access != nil }, "what they do")
      } else {
        expect(item.isReturning == lent.isReturning, "whether it returns")
        expect(item.isAccessed == (lent.access != nil), "what its lender does")
        expect(item.metadataChanges == lent.metadataChanges, "its metadata")
      }
    }
  }

  private func beginning(of lent: LendingModel.Lent) -> Known {
    let (fills, aborts) = before[lent.id] ?? (0, 0)
    return Known(
      isReturning: lent.isReturning, isAccessed: !isLender && lent.access != nil, fills: fills,
      metadataChanges: lent.metadataChanges, aborts: aborts)
  }
}
