import Buffers
import CBench
import Fixtures
import Glibc
import Guest
import Lending
import LendingProtocol
import Linux
import SystemPackage
import Udmabuf

/// `Benchmarks/check` counts the instructions of these. Each is done again and again in this process alone, without
/// `/dev/udmabuf`: a count is the same on every machine.
enum Operation: String, CaseIterable {
  /// A fenced flush of a picture that is lent, from the kick until the answer: what `Device.show` lends is no udmabuf, of
  /// which a flush takes no notice.
  case flush
  /// The same with the scanout set to another buffer first.
  case flip
  /// A resource is created, is given 768 scattered pages, and goes. Reading the list, resolving it and the account are in
  /// this; lending is not, for which there is `create`.
  case attach
  /// `UdmabufDevice.create` of 768 scattered pages, until the kernel is asked.
  case create
  case resolveScattered = "resolve-scattered"
  case resolveJoinable = "resolve-joinable"
  /// A buffer is lent, imported, released and taken back, in the registry.
  case lend
  /// A buffer is looked for among a thousand by somebody who may import none of them: by an id that there is not, and by that
  /// of one of them. That caller could measure the difference.
  case findWrong = "find-wrong"
  case findForbidden = "find-forbidden"

  /// So often it is done, at least, for its own instructions to outweigh those of the start.
  private var rounds: Int {
    switch self {
    case .flush, .flip: 1000
    case .attach, .create, .resolveScattered, .resolveJoinable: 50
    case .lend, .findWrong, .findForbidden: 10_000
    }
  }

  /// `repeat NAME COUNT` does it so often, and prints how often the whole run asked for memory; `repeat` alone prints each
  /// name and a good count.
  static func main(_ arguments: [String]) {
    if arguments.isEmpty {
      for operation in allCases { print(operation.rawValue, operation.rounds) }
      return
    }
    guard arguments.count == 2, let operation = Operation(rawValue: arguments[0]),
      let count = Int(arguments[1]), count > 0
    else {
      printError("bench: repeat wants an operation and how often; repeat alone prints those that there are")
      exit(64)
    }
    do {
      let body = try operation.prepare()
      for _ in 0..<count { try body() }
      print(cb_allocations())
    } catch {
      printError("bench repeat \(operation.rawValue): \(error)")
      exit(1)
    }
  }

  private func prepare() throws -> () throws -> Void {
    switch self {
    case .flush:
      let device = try Device(backing: .auto)
      let buffer = try device.show(1)
      return { try device.run(buffer.flush) }
    case .flip:
      let device = try Device(backing: .auto)
      let buffers = try [device.show(1), device.show(2)]
      var count = 0
      return {
        try device.run(buffers[count % 2].setScanout)
        try device.run(buffers[count % 2].flush)
        count += 1
      }
    case .attach:
      let device = try Device(backing: .shadow)
      let pages = pagesApart(device.ram.allocate(Int(Device.bytes)), Int(Device.bytes))
      let life = try [
        Command.create(1, Device.width, Device.height), Command.attach(1, pages), Command.unref(1),
      ].map(device.layOut)
      return { for chain in life { try device.run(chain) } }
    case .create:
      return try prepareCreate()
    case .resolveScattered:
      let table = try Table(regions: 4)
      return Self.resolve(table.memory, table.scattered(2025), ranges: 2025)
    case .resolveJoinable:
      let table = try Table(regions: 4)
      return Self.resolve(table.memory, table.joinable(2025), ranges: 1)
    case .lend: return try Lenders(others: 0).life
    case .findWrong: return try Lenders(others: 1000).find(isThere: false)
    case .findForbidden: return try Lenders(others: 1000).find(isThere: true)
    }
  }

  private static func resolve(
    _ memory: GuestMemory, _ entries: [GuestRange], ranges: Int
  ) -> () throws -> Void {
    { try check(try memory.resolve(entries).count == ranges, "the entries make \(ranges) ranges") }
  }

  /// A device that knows no such request stands where the kernel's would: what it says is all that differs until then.
  private func prepareCreate() throws -> () throws -> Void {
    let device = try UdmabufDevice("/dev/null")
    let page = systemPageSize
    let memfd = try Memfd.create(name: "bench", size: Device.bytes, seals: .shrink)
    let ranges = (0..<UInt64(Device.pages)).reversed().map {
      MemfdRange(memfd: memfd, offset: $0 * page, length: page)
    }
    return {
      do throws(UdmabufError) { _ = try device.create(ranges) } catch .kernel(.inappropriateIOCTLForDevice) {
        return
      }
      throw WrongResult("/dev/null makes no dma-buf")
    }
  }
}

/// A registry whose buffers are for an audience.
private final class Lenders {
  private let registry: Registry
  private let owner: LenderID
  private let pages: Buffer
  private let request = LendingRequest(offset: 0, size: 4096, audiences: ["viewers"])
  private var ids: [BufferID] = []
  private let viewer = LendingCaller(pid: 1, user: 1, groups: [], isTrusted: false)
  private let stranger = LendingCaller(pid: 1, user: 2, groups: [2], isTrusted: false)

  init(others: Int) throws {
    var limits = LendingLimits()
    limits.buffers = others + 1
    registry = Registry(limits: limits, audiences: ["viewers": Audience(users: [1], groups: [1])])
    owner = LenderID(session: registry.beginSession(), number: 1)
    pages = try LendableBuffer().buffer
    for number in 0..<others {
      ids.append(try registry.lend(request, of: pages, at: Self.place(number), by: owner))
    }
  }

  private static func place(_ number: Int) -> ResourcePlace {
    ResourcePlace(device: 0, epoch: 1, resource: UInt32(number) + 1)
  }

  func life() throws {
    let id = try registry.lend(request, of: pages, at: Self.place(ids.count), by: owner)
    registry.release(try registry.importBuffer(id, for: viewer, forWriting: false))
    try registry.takeBack(id, by: owner, after: .zero, patience: .zero)
  }

  func find(isThere: Bool) -> () throws -> Void {
    let wanted = isThere ? ids : ids.map { _ in .random() }
    var count = 0
    return { [self] in
      count += 1
      do throws(LendingError) { _ = try registry.find(wanted[count % wanted.count], for: stranger) } catch {
        return
      }
      throw WrongResult("a stranger finds a buffer")
    }
  }
}
