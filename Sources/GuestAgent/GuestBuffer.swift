internal import LendingProtocol
internal import Linux

/// Who lends: a connection to the agent, by a number that the helper knows too. It is gone when the connection is over.
final class BufferOwner {
  let number: Int
  let user: UInt32
  let pid: Int32
  var isGone = false

  init(number: Int, user: UInt32, pid: Int32) { (self.number, self.user, self.pid) = (number, user, pid) }
}

/// A card of which the helper has said which device it is.
struct ProvenCard {
  let card: any GuestCard
  let device, epoch: Int
}

/// What a lender asks for.
struct LendRequest {
  var offset, size: Int
  var use: BufferUse
  var metadata: BufferMetadata?
  var to: [String]?
}

/// A buffer that is lent, or was until its card went away.
final class GuestBuffer {
  enum State: String {
    case lent, returning
    /// Its card is gone, and the next one gets it.
    case waiting
  }

  let owner: BufferOwner
  /// The last one that it had.
  var id: BufferID
  /// What somebody else has made is kept to be imported again.
  let foreign: DMABuf?
  /// The lender's content was copied into it once.
  let isCopy: Bool
  var request: LendRequest
  var state = State.lent
  var importers = 0
  /// Nil while it waits for a card.
  var place: Place?

  /// Where the host sees it.
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
