import Guest
import Linux
import Programs
import SystemPackage
import Tracing
import Udmabuf

/// What the page lists of a trace would become, in the guest's memory that the trace says, or in another one.
struct TraceReplay {
  private struct Resource {
    /// Of its image or blob; nil if it is of the host's memory.
    let bytes: UInt64?
    /// What its page list became.
    var list: PlanFacts?
  }

  /// How an error calls the file.
  private let name: String
  private let planner: ListPlanner
  /// Nil until the trace says one.
  private var memory: PlannedMemory?
  private let isMemoryGiven: Bool
  private var resources: [TracedResource: Resource] = [:]
  /// What each scanout of each device shows.
  private var shown: [[Int: TracedResource]] = Array(repeating: [:], count: TraceLimits.devices)
  private var lends: Set<UInt64> = []
  private var lentBytes: UInt64 = 0
  private var facts: TraceFacts

  /// - Parameter memory: in place of that which the trace says.
  init(_ name: String, _ planner: ListPlanner, in memory: PlannedMemory?) {
    (self.name, self.planner, self.memory, isMemoryGiven) = (name, planner, memory, memory != nil)
    facts = TraceFacts(PlanFacts.Limits(planner.limits))
    if planner.withItems { facts.lists = [] }
  }

  /// Reads a trace to its end.
  mutating func read() throws -> TraceFacts {
    var parser = TraceParser()
    do {
      let file = try FD.open(FilePath(name), writable: false)
      var buffer: [UInt8] = []
      while case let count = try file.read(into: &buffer, upTo: 1 << 18), count > 0 {
        try parser.feed(buffer[..<count]) { line, event in try take(event, line) }
      }
      try parser.finish()
    } catch let error as TraceError {
      throw Trouble("the trace \(name), \(error)")
    } catch let error as Errno { throw Trouble("the trace \(name) cannot be read: \(error)") }
    facts.end = parser.end?.rawValue
    facts.lines = parser.lines
    return facts
  }

  private mutating func take(_ event: TraceEvent, _ line: Int) throws {
    switch event {
    case .memory(let parts):
      if isMemoryGiven { return }
      do { memory = try PlannedMemory(LayoutText.layout(parts)) } catch {
        throw TraceError(line: line, "this is no memory of a guest: \(error)")
      }
    case .start(let device):
      for resource in resources.keys where resource.device == device { drop(resource) }
    case .image(let resource, let width, let height, _):
      try add(resource, bytes: UInt64(width) * UInt64(height) * 4, line)
    case .blob(let resource, let bytes): try add(resource, bytes: bytes, line)
    case .hostBlob(let resource, _): try add(resource, bytes: nil, line)
    case .attach(let resource, let entries): try attach(resource, entries, line)
    case .detach(let resource):
      _ = try find(resource, line)
      setList(nil, of: resource)
    case .destroy(let resource):
      _ = try find(resource, line)
      drop(resource)
    case .scanout(let scanout, let resource, _), .blobScanout(let scanout, let resource, _, _):
      _ = try find(resource, line)
      shown[resource.device][scanout] = resource
    case .scanoutOff(let scanout, let device): shown[device][scanout] = nil
    case .flush(let resource, _):
      let backing = try find(resource, line).list?.backing
      facts.flushes.count(backing, shown[resource.device].values.count { $0 == resource })
    case .lend(let number, let resource, _, _):
      let backing = try find(resource, line).list?.backing
      guard lends.insert(number).inserted else {
        throw TraceError(line: line, "buffer \(number) is lent already; give it back first")
      }
      try check(lends.count, "lent buffers", line)
      facts.lends.count(backing, 1)
    case .giveBack(let number):
      if lends.remove(number) == nil {
        throw TraceError(line: line, "there is no lent buffer \(number) to give back; leave the line out")
      }
    case .end: break
    }
  }

  private func check(_ count: Int, _ what: String, _ line: Int) throws(TraceError) {
    if count > TraceLimits.atOnce {
      throw TraceError(
        line: line, "\(count) \(what) at once; \(TraceLimits.atOnce) are the limit: leave some out")
    }
  }

  // MARK: Resources

  private func find(_ resource: TracedResource, _ line: Int) throws(TraceError) -> Resource {
    guard let found = resources[resource] else {
      throw TraceError(line: line, "there is no resource \(resource) here; a line image or blob makes one")
    }
    return found
  }

  private mutating func add(_ resource: TracedResource, bytes: UInt64?, _ line: Int) throws(TraceError) {
    if resources[resource] != nil {
      throw TraceError(line: line, "there is a resource \(resource) already; a line destroy ends it")
    }
    resources[resource] = Resource(bytes: bytes)
    try check(resources.count, "resources", line)
  }

  private mutating func drop(_ resource: TracedResource) {
    setList(nil, of: resource)
    resources[resource] = nil
    shown[resource.device] = shown[resource.device].filter { $0.value != resource }
  }

  private mutating func setList(_ list: PlanFacts?, of resource: TracedResource) {
    if let old = resources[resource]?.list, old.backing == .lent {
      lentBytes -= old.size
      facts.now -= 1
    }
    resources[resource]?.list = list
    guard let list, list.backing == .lent else { return }
    // As many as there may be, each with as many bytes as it may have, are no more than 64 bits hold.
    lentBytes += list.size
    facts.now += 1
    facts.mostLentBytes = max(facts.mostLentBytes, lentBytes)
    facts.mostLent = max(facts.mostLent, facts.now)
  }

  private mutating func attach(_ resource: TracedResource, _ entries: [GuestRange], _ line: Int) throws {
    guard let bytes = try find(resource, line).bytes else {
      throw TraceError(
        line: line, "resource \(resource) is memory of the host, which has no page list; leave it out")
    }
    guard let memory else {
      throw TraceError(
        line: line,
        "the trace has not said where the guest's memory is: add a line memory before this one, or give --layout or --machine"
      )
    }
    do {
      let list = try planner.facts(in: memory, needed: bytes) { pages in
        pages.add(entries.map { ByteRange(start: $0.address.rawValue, length: $0.length) })
      }
      setList(list, of: resource)
      facts.add(list, resource, line)
    } catch let error as Trouble {
      setList(nil, of: resource)
      facts.addRefused("\(error)", entries.count, resource, line)
    }
  }
}

/// What the page lists of a trace would become, all of them together.
struct TraceFacts: Encodable {
  struct List: Encodable {
    /// In the trace.
    let line, device: Int
    let resource: UInt32
    let entries: Int
    /// Not there if the guest named memory that it does not have.
    var itemCount: Int?
    var size: UInt64?
    /// `lent`, `shadow` or `refused`.
    let result: String
    var cause: String?
    let reason: String?
  }

  /// Of things that concern pages: how many of them were of which.
  struct Count: Encodable {
    var (lent, shadow, other) = (0, 0, 0)

    mutating func count(_ backing: PlanFacts.Backing?, _ count: Int) {
      switch backing {
      case .lent: lent += count
      case .shadow: shadow += count
      case nil: other += count
      }
    }
  }

  /// Why some lists are not lent.
  struct Cause: Encodable {
    /// The helper's word for it, or `refused`.
    let cause: String
    var lists = 0
    /// Of the first one.
    let line: Int
    let reason: String
  }

  var lines = 0
  /// `stopped`, `full`, or nothing if the trace does not say why it ends.
  var end: String?
  /// `other` are those with which the helper would answer with an error.
  var pageLists = Count()
  /// Of all lists, the least that the kernel's module parameters must be.
  var neededLimits = PlanFacts.Limits(listLimit: 0, sizeLimitMb: 0)
  let limits: PlanFacts.Limits
  /// The most at one time.
  var mostLent = 0
  var mostLentBytes: UInt64 = 0
  /// `other` are those of resources without a page list.
  var flushes = Count()
  var lends = Count()
  var causes: [Cause] = []
  var lists: [List]?
  /// So many are lent here.
  fileprivate var now = 0

  private enum CodingKeys: CodingKey {
    case lines, end, pageLists, neededLimits, limits, mostLent, mostLentBytes, flushes, lends, causes, lists
  }

  fileprivate init(_ limits: PlanFacts.Limits) { self.limits = limits }

  fileprivate mutating func add(_ list: PlanFacts, _ resource: TracedResource, _ line: Int) {
    pageLists.count(list.backing, 1)
    let (now, needed) = (neededLimits, list.neededLimits)
    neededLimits = PlanFacts.Limits(
      listLimit: max(now.listLimit, needed.listLimit), sizeLimitMb: max(now.sizeLimitMb, needed.sizeLimitMb))
    if let cause = list.cause, let reason = list.reason { note(cause, reason, line) }
    lists?.append(
      List(
        line: line, device: resource.device, resource: resource.number, entries: list.entries,
        itemCount: list.itemCount, size: list.size, result: list.backing.rawValue, cause: list.cause,
        reason: list.reason))
  }

  fileprivate mutating func addRefused(
    _ reason: String, _ entries: Int, _ resource: TracedResource, _ line: Int
  ) {
    pageLists.other += 1
    note("refused", reason, line)
    lists?.append(
      List(
        line: line, device: resource.device, resource: resource.number, entries: entries, result: "refused",
        reason: reason))
  }

  private mutating func note(_ name: String, _ reason: String, _ line: Int) {
    let index = causes.firstIndex { $0.cause == name } ?? causes.count
    if index == causes.count { causes.append(Cause(cause: name, line: line, reason: reason)) }
    causes[index].lists += 1
  }

  var text: String {
    let ending =
      switch end.flatMap(TraceEnd.init(rawValue:)) {
      case .stopped: "to the end of the helper"
      case .full: "to the most that the file may have; --trace-limit of the helper raises that"
      case nil: "without an end: the helper runs, was killed, or could not write"
      }
    var lines = [
      "trace    \(counted(self.lines, "line")), \(ending)",
      "lists    \(pageLists.lent) lent, \(pageLists.shadow) shadow, \(pageLists.other) refused",
      PlanFacts.line(neededLimits, limits),
      "at once  \(counted(mostLent, "list")) lent, \(mostLentBytes) bytes (\(bytes(mostLentBytes)))",
      "flushes  \(flushes.lent) of lent pages, \(flushes.shadow) of copies, \(flushes.other) of neither",
      "lends    \(lends.lent) of lent pages, \(lends.shadow) of copies, \(lends.other) of neither",
    ]
    for cause in causes {
      lines.append(
        "cause    \(cause.cause): \(counted(cause.lists, "list")), the first in line \(cause.line): \(cause.reason)"
      )
    }
    for list in lists ?? [] {
      let items = list.itemCount.map { ", \(counted($0, "item"))" } ?? ""
      lines.append(
        "list     line \(list.line), resource \(list.device)/\(list.resource): "
          + "\(counted(list.entries, "entry", "entries"))\(items), \(list.cause ?? list.result)")
    }
    return lines.joined(separator: "\n")
  }
}
