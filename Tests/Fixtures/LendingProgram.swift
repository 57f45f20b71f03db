internal import Buffers
internal import Lending
internal import LendingProtocol
internal import Linux
internal import SystemPackage

/// A program of all that can happen to a registry, step by step: what a guest, its devices, importers and listeners do. After each step
/// the registry is held against the model, and whatever differs is reported.
package final class LendingProgram {
  /// A number below the given one; it decides what happens.
  package typealias Choice = (Int) -> Int

  private static let callers = [
    LendingCaller(pid: 1, user: 0, groups: [], isTrusted: true),
    LendingCaller(pid: 2, user: 1000, groups: [], isTrusted: false),
    LendingCaller(pid: 3, user: 1001, groups: [29], isTrusted: false),
    LendingCaller(pid: 4, user: 1002, groups: [1000], isTrusted: false),
  ]
  private static let pageSize: UInt64 = 4096

  private let registry: Registry
  private let model: LendingModel
  private let loop: EventLoop
  private let choose: Choice
  private let report: (String) -> Void
  private let places: Places
  private var epochs: [UInt64] = [1, 1]
  private var session: UInt64 = 0
  private var isInSession = false
  private var listeners: [LendingListener] = []
  private var buffers: [BufferID: LentBuffer] = [:]
  private var imports: [Int: Import] = [:]
  /// How often each import was told that it is cut off.
  private var cutOffs: [Int: Int] = [:]
  /// Pages that the guest wants back, and that somebody has.
  private var wanted: [Buffer] = []
  private var steps = 0
  private var last = "the start"

  /// The guest's resources, and the devices that work on their pages.
  private final class Places {
    var pages: [ResourcePlace: Buffer] = [:]
    var devices: [ObjectIdentifier: BusyDevice] = [:]
    var lents: [ObjectIdentifier: [LendingModel.Lent]] = [:]

    func lent(_ pages: Buffer) -> [LendingModel.Lent] { lents[ObjectIdentifier(pages)] ?? [] }
  }

  package init(choose: @escaping Choice, report: @escaping (String) -> Void) throws {
    var limits = LendingLimits()
    (limits.buffers, limits.imports, limits.metadata) = (7, 9, 64)
    let audiences = ["video": Audience(users: [1000]), "sound": Audience(groups: [29])]
    let (model, loop, places) = (LendingModel(limits, audiences), try EventLoop(), Places())
    (self.model, self.loop, self.places, self.choose, self.report) = (model, loop, places, choose, report)
    registry = Registry(
      limits: limits, audiences: audiences, clock: { model.now },
      awaitDevices: { places.devices[ObjectIdentifier($0)]?.wait(loop, whenOver: $1) })
    begin()
  }

  private func fail(_ what: String) { report("step \(steps), \(last): \(what)") }

  /// Does one thing more.
  package func step() throws {
    steps += 1
    let operation = Operation.allCases[choose(Operation.allCases.count)]
    last = "\(operation)"
    try perform(operation)
    check()
  }

  /// Everybody goes and all is read: nothing is left.
  package func finish() throws {
    last = "the end"
    for (lent, use) in model.uses { release(lent, use) }
    endSession()
    check()
    for listener in listeners { listener.read(.max) }
    if registry.deadline != nil || !model.live.isEmpty { fail("something waits") }
    weak var kept: LentBuffer?
    for id in Array(buffers.keys) {
      kept = buffers.removeValue(forKey: id)
      imports = [:]
      if kept != nil { fail("buffer \(id) is kept") }
    }
  }

  private enum Operation: CaseIterable {
    case lend, lendMore, lendYetMore, metadata, takeBack, takeBackMore, access, endLender, endSession, hello
    case useBuffer, useMore, useYetMore, release, beginFill, endFill, use, want, pagesGone, reset
    case pass, passMore, expire, beginReading, finishReading, listen, read, readMore, readAll, leave
  }

  private func perform(_ operation: Operation) throws {
    switch operation {
    case .lend, .lendMore, .lendYetMore: try lend()
    case .metadata:
      guard let lent = anyLent() else { return }
      let (new, owner) = (metadata(), owner(of: lent))
      compare(model.setMetadata(new, of: lent, by: owner)) { () throws(LendingError) in
        try registry.setMetadata(new, of: lent.id, by: owner)
      }
    case .takeBack, .takeBackMore:
      guard let lent = anyLent() else { return }
      let owner = owner(of: lent)
      let delay = [TimeSpan.zero, .zero, .milliseconds(500), .seconds(5)][choose(4)]
      let patience = [TimeSpan.zero, .milliseconds(300), .seconds(1), .seconds(10)][choose(4)]
      compare(model.takeBack(lent, by: owner, after: delay, patience: patience)) { () throws(LendingError) in
        try registry.takeBack(lent.id, by: owner, after: delay, patience: patience)
      }
    case .access:
      guard let lent = anyLent() else { return }
      let (owner, mode) = (owner(of: lent), choose(2) == 0 ? nil : mode())
      compare(model.setAccess(mode, to: lent, by: owner)) { () throws(LendingError) in
        guard let mode else { return try registry.endAccess(to: lent.id, by: owner) }
        try registry.beginAccess(mode, to: lent.id, by: owner)
      }
    case .endLender:
      let owner = LenderID(session: session, number: choose(2))
      model.endLender(owner)
      registry.endLender(owner)
    case .endSession: if choose(4) == 0 { endSession() }
    case .hello: if choose(isInSession ? 8 : 1) == 0 { begin() }
    case .useBuffer, .useMore, .useYetMore: importBuffer()
    case .release: if let (lent, use) = anyUse() { release(lent, use) }
    case .beginFill:
      guard let (lent, use) = anyUse(), let real = imports[use.number] else { return }
      compare(model.beginFill(by: use, of: lent)) { () throws(LendingError) in
        try registry.beginFill(by: real)
      }
    case .endFill:
      guard let (lent, use) = anyUse(), let real = imports[use.number] else { return }
      let fill = Fill(bytesUsed: choose(8) == 7 ? Self.pageSize + 1 : UInt64(choose(100)))
      compare(model.endFill(fill, by: use, of: lent)) { () throws(LendingError) in
        try registry.endFill(fill, by: real)
      }
    case .use:
      guard let (_, use) = anyUse(), let real = imports[use.number] else { return }
      let mode = choose(2) == 0 ? nil : mode()
      model.setAccess(mode, of: use)
      if let mode { registry.beginAccess(mode, by: real) } else { registry.endAccess(by: real) }
    case .want: if let place = anyPlace() { want(place, isReset: false) }
    case .pagesGone:
      if wanted.isEmpty { return }
      let pages = wanted.remove(at: choose(wanted.count))
      model.pagesAreGone(places.lent(pages))
      for borrower in pages.borrowers { borrower.pagesAreGone() }
      if !pages.borrowers.isEmpty { fail("somebody uses pages that are gone") }
    case .reset:
      if choose(4) > 0 { return }
      let device = choose(2)
      for place in places.pages.keys where place.device == device { want(place, isReset: true) }
      epochs[device] += 1
    case .pass, .passMore:
      let times: [Int64] = [1, 100, 400, 1000, 2500, 20000]
      model.now = model.now + .milliseconds(times[choose(6)])
      if choose(3) > 0 { expire() }
    case .expire: expire()
    case .beginReading:
      guard let (lent, _) = anyUse(), let pages = places.pages[lent.place], !lent.isOver else { return }
      places.devices[ObjectIdentifier(pages)] = try BusyDevice()
      model.reading.insert(lent.place)
    case .finishReading:
      guard let place = anyPlace(), let pages = places.pages[place] else { return }
      try places.devices.removeValue(forKey: ObjectIdentifier(pages))?.finish()
      model.finishReading(place)
      while try loop.turn(waiting: .zero) > 0 {}
    case .listen: if listeners.count < 6 { listen(.importer(Self.callers[choose(4)])) }
    case .read, .readMore: listeners.isEmpty ? () : listeners[choose(listeners.count)].read(1 + choose(3))
    case .readAll: listeners.isEmpty ? () : listeners[choose(listeners.count)].read(.max)
    case .leave:
      if listeners.count > 3 { registry.remove(listeners.remove(at: choose(listeners.count)).feed) }
    }
  }

  // MARK: Choices

  private func anyLent() -> LendingModel.Lent? {
    let all = model.all
    return all.isEmpty ? nil : all[all.count - 1 - choose(min(all.count, 8))]
  }

  private func anyUse() -> (LendingModel.Lent, LendingModel.Use)? {
    let all = model.uses
    return all.isEmpty ? nil : all[choose(all.count)]
  }

  private func anyPlace() -> ResourcePlace? {
    let place = ResourcePlace(device: choose(2), epoch: 0, resource: UInt32(choose(4)) + 1)
    let now = ResourcePlace(device: place.device, epoch: epochs[place.device], resource: place.resource)
    return places.pages[now] == nil ? nil : now
  }

  private func owner(of lent: LendingModel.Lent) -> LenderID {
    choose(8) == 7 ? LenderID(session: session, number: choose(3)) : lent.owner
  }

  private func mode() -> AccessMode { AccessMode.allCases[choose(3)] }

  private func metadata() -> BufferMetadata {
    BufferMetadata(values: ["": String(repeating: "x", count: choose(12) == 11 ? 65 : choose(64))])
  }

  // MARK: Steps

  private func begin() {
    model.revokeAll(.sessionEnded)
    let new = registry.beginSession()
    if new <= session { fail("session \(new) after \(session)") }
    (session, isInSession) = (new, true)
    listen(.lender(session: new))
  }

  private func endSession() {
    model.revokeAll(.sessionEnded)
    registry.endSession()
    isInSession = false
  }

  private func listen(_ audience: LendingFeed.Audience) {
    let listener = LendingListener(audience, model) { [unowned self] in fail($0) }
    registry.add(listener.feed)
    listeners.append(listener)
  }

  private func lend() throws {
    if !isInSession { return }
    let device = choose(2)
    let place = ResourcePlace(device: device, epoch: epochs[device], resource: UInt32(choose(4)) + 1)
    let pages = try places.pages[place] ?? newPages(place)
    let owner = LenderID(session: session, number: choose(2))
    let to: [[String]] = [
      [], [], ["video"], ["sound"], ["video", "sound"], ["x"], Array(repeating: "sound", count: 17),
    ]
    let (offset, size): (UInt64, UInt64) =
      choose(10) < 9 ? (0, Self.pageSize) : [(1, Self.pageSize), (.max, .max), (0, 0), (4095, 1)][choose(4)]
    let request = LendingRequest(
      offset: offset, size: size, use: choose(2) == 0 ? .fill : .read,
      audiences: to[choose(16) == 15 ? 5 + choose(2) : choose(5)],
      metadata: metadata())
    // Half of the time, what is lent again is asked for as it was.
    let old = model.live.first { $0.place == place }
    let again = old != nil && choose(2) == 0
    let (asked, by) = again ? (old!.request, old!.owner) : (request, owner)
    let (error, known) = model.lend(asked, of: pages.size, at: place, by: by)
    var id: BufferID?
    compare(error) { () throws(LendingError) in id = try registry.lend(asked, of: pages, at: place, by: by) }
    guard let id, error == nil else { return }
    if let known {
      if known.id != id { fail("a buffer that is lent again has another name") }
      return
    }
    if model.all.contains(where: { $0.id == id }) { fail("a name is used again") }
    places.lents[ObjectIdentifier(pages), default: []].append(model.add(id, place, by, asked))
    buffers[id] = try? registry.find(id, for: Self.callers[0])
  }

  private func newPages(_ place: ResourcePlace) throws -> Buffer {
    let pages = try LendableBuffer().buffer
    places.pages[place] = pages
    // Others may have been there in memory before.
    places.lents[ObjectIdentifier(pages)] = []
    return pages
  }

  private func importBuffer() {
    guard let lent = anyLent() else { return }
    let (caller, number) = (Self.callers[choose(4)], model.counts.imported)
    compare(model.importBuffer(lent, by: caller)) { [self] () throws(LendingError) in
      let new = try registry.importBuffer(lent.id, for: caller, forWriting: false)
      new.whenCutOff = { [unowned self] in cutOffs[number, default: 0] += 1 }
      imports[number] = new
    }
  }

  private func release(_ lent: LendingModel.Lent, _ use: LendingModel.Use) {
    guard let real = imports[use.number] else { return fail("import \(use.number) is missing") }
    model.release(use, of: lent)
    registry.release(real)
    registry.release(real)
  }

  /// As `PageReturns` does it.
  private func want(_ place: ResourcePlace, isReset: Bool) {
    guard let pages = places.pages.removeValue(forKey: place) else { return }
    // Of an ended session, and of this one.
    let lent = places.lent(pages)
    for lent in lent { model.revoke(lent, isReset ? .deviceReset : .resourceGone) }
    let expected = lent.compactMap { $0.uses.isEmpty ? nil : $0.cutOff }.min()
    let told = pages.borrowers.compactMap { $0.pagesAreWanted(isReset: isReset) }.min()
    if told != expected { fail("importers have until \(told as Any), not \(expected as Any)") }
    if !pages.borrowers.isEmpty { wanted.append(pages) }
    model.reading.remove(place)
    places.devices[ObjectIdentifier(pages)] = nil
  }

  private func expire() {
    model.expire()
    registry.expire()
  }

  private func compare(_ expected: LendingError?, _ body: () throws(LendingError) -> Void) {
    var error: LendingError?
    do throws(LendingError) { try body() } catch let thrown { error = thrown }
    if error != expected {
      fail("\(error.map { "\($0)" } ?? "it succeeds"), not \(expected.map { "\($0)" } ?? "success")")
    }
  }

  // MARK: What must be so

  private func check() {
    for lent in model.all {
      guard let real = buffers[lent.id] else {
        fail("buffer \(lent.id) is missing")
        continue
      }
      func expect(_ condition: Bool, _ what: String) { if !condition { fail("buffer \(lent.id): \(what)") } }
      expect(real.state == lent.state, "\(real.state), not \(lent.state)")
      expect(real.imports.count == lent.uses.count, "\(real.imports.count) imports, not \(lent.uses.count)")
      expect(real.fills == lent.fills, "\(real.fills) fills, not \(lent.fills)")
      expect((real.pages == nil) == (lent.isOver && lent.uses.isEmpty), "its pages")
      if lent.isOver { continue }
      expect(real.access == lent.access, "what its lender does")
      expect((real.filler == nil) == (lent.filler == nil), "its filler")
      expect(real.request == lent.request, "what it was lent as")
    }
    for caller in Self.callers {
      let visible = model.live.filter { model.admits(caller, to: $0) }.map(\.id)
      if registry.list(for: caller).map(\.id) != visible {
        fail("user \(caller.user) sees others than it may")
      }
      for lent in model.all.suffix(12)
      where ((try? registry.find(lent.id, for: caller)) != nil) != visible.contains(lent.id) {
        fail("user \(caller.user) finds \(lent.id), or does not")
      }
    }
    if registry.deadline != model.deadline { fail("the deadline") }
    for (number, real) in imports {
      let isCutOff = cutOffs[number] != nil
      if (cutOffs[number] ?? 0) > 1 { fail("import \(number) is cut off more than once") }
      if isCutOff && !real.isOver { fail("import \(number) is told that it is over, and is not") }
    }
    let (all, counts) = (registry.statistics, model.counts)
    if all.buffers != model.live.count || all.imports != model.uses.count || all.watchers != listeners.count
      || all.lent != counts.lent || all.imported != counts.imported || all.returned != counts.returned
      || all.revoked != counts.revoked || all.cutOff != counts.cutOff || cutOffs.count != counts.cutOff
    {
      fail("\(all) with \(cutOffs.count) told of \(counts)")
    }
    for listener in listeners { listener.check() }
  }
}
