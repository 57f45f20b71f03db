internal import LendingProtocol

/// Memory of the host that this guest may have.
struct GuestOffer {
  let id: Int
  /// The helper's number of the device that maps it.
  let device: Int
  /// In bytes.
  let size: Int
  let isWritable: Bool
  let metadata: BufferMetadata
  /// Whether the host wants it back.
  var isWithdrawing = false
}

/// The host's offers. The kernel keeps the memory that a program has received until the program ends.
final class GuestOfferTable {
  /// In the order in which they were offered.
  private(set) var all: [GuestOffer] = []
  var whenChanged: ((LenderEvent) -> Void)?

  subscript(id: Int) -> GuestOffer? { all.first { $0.id == id } }

  /// The newest offer whose metadata has this value.
  func newest(_ name: String, _ value: String) -> GuestOffer? {
    all.last { $0.metadata.values[name] == value && !$0.isWithdrawing }
  }

  func offered(_ offer: GuestOffer) {
    if self[offer.id] != nil { return }
    all.append(offer)
    whenChanged?(LenderEvent(.offered, offer))
  }

  /// - Parameter patience: in milliseconds.
  func withdrawing(_ id: Int, patience: Int) {
    guard let index = all.firstIndex(where: { $0.id == id }) else { return }
    all[index].isWithdrawing = true
    var event = LenderEvent(.withdrawing, all[index])
    event.patience = patience
    whenChanged?(event)
  }

  func withdrawn(_ id: Int) {
    guard let index = all.firstIndex(where: { $0.id == id }) else { return }
    whenChanged?(LenderEvent(.withdrawn, all.remove(at: index)))
  }

  /// The helper is gone, and its offers end.
  func endSession() { for offer in all { withdrawn(offer.id) } }
}
