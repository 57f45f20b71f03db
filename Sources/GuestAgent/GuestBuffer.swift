internal import LendingProtocol
internal import Linux

/// A lender: a connection to the agent, with a number that the helper knows too. It ends with the connection.
final class BufferOwner {
  let number: Int
  let user: UInt32
  let pid: Int32
  var isGone = false

  init(number: Int, user: UInt32, pid: Int32) { (self.number, self.user, self.pid) = (number, user, pid) }
}

/// A card whose device the helper has named.
struct ProvenCard {
  let card: any GuestCard
  let device, epoch: Int
}

/// A lender's request.
struct LendRequest {
  var offset, size: Int
  var use: BufferUse
  var metadata: BufferMetadata?
  var to: [String]?
}

/// A buffer that is lent, or waits for a new card.
final class GuestBuffer {
  enum State: String {
    case lent, returning
    /// Its card is gone, and the next card gets it.
    case waiting
  }

  let owner: BufferOwner
  /// Its last id.
  var id: BufferID
  /// The dma-buf of another driver, kept for the next card's import.
  let foreign: DMABuf?
  /// Whether the lender's content was copied into it once.
  let isCopy: Bool
  var request: LendRequest
  var state = State.lent
  var importers = 0
  /// Nil while it waits for a card.
  var place: Place?

  /// Its place for the host.
  struct Place {
    let card: ProvenCard
    let buffer: CardBuffer
  }

  init(
    _ id: BufferID, _ owner: BufferOwner, _ request: LendRequest, _ place: Place, foreign: DMABuf?,
    isCopy: Bool
  ) {
    (self.id, self.owner, self.request, self.place) = (id, owner, request, place)
    (self.foreign, self.isCopy) = (foreign, isCopy)
  }
}
