internal import Fixtures
internal import Linux
internal import SystemPackage

/// Descriptors of every kind that a peer may send along, wanted or not. The sender keeps its own.
final class Descriptors {
  /// For kicks and calls.
  let events: [FrontEnd.Line]
  /// One whose other end is here too.
  let socket: CInt
  /// Guest memory that cannot be written.
  let readOnly: CInt
  private let others: [Holder]
  private let numbers: [CInt]

  private final class Holder {
    let fd: FD
    init(_ fd: consuming FD) { self.fd = fd }
    var number: CInt { fd.withRaw { $0 } }
  }

  init(_ ram: [Memfd] = []) throws {
    events = try (0..<2).map { _ in try FrontEnd.Line() }
    var others: [Holder] = []
    for memfd in ram + [try Memfd.create(name: "fuzz", size: systemPageSize)] {
      others.append(Holder(try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }))
    }
    try UnixSocket.pair { one, other in
      others += [Holder(try one.fd.duplicate()), Holder(try other.fd.duplicate())]
    }
    socket = others[others.count - 1].number
    // Its peer is gone.
    try UnixSocket.pair { one, _ in others.append(Holder(try one.fd.duplicate())) }
    let (reading, writing) = try FileDescriptor.pipe()
    others += [Holder(FD(adopting: reading.rawValue)), Holder(FD(adopting: writing.rawValue))]
    others.append(Holder(try FD.open("/dev/null", writable: true)))
    let file = FilePath("/proc/self/fd/\(others[0].number)")
    others.append(Holder(try FD.open(file, writable: false)))
    readOnly = others[others.count - 1].number
    self.others = others
    numbers = events.map { $0.event.fd.withRaw { $0 } } + others.map(\.number)
  }

  func one(_ input: inout Input) -> CInt { input.one(of: numbers) }

  /// Up to twelve, more than one message can carry.
  func several(_ input: inout Input) -> [CInt] { (0..<Int(input.byte() % 13)).map { _ in one(&input) } }

  func event(_ index: Int) -> CInt { numbers[index] }
}
