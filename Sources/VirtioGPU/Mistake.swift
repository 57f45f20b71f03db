internal import Buffers
internal import Scanout

/// Why a command was refused: the answer, and for our log its kind and a sentence.
struct Mistake: Error {
  let error: ResponseError
  let kind: MistakeKind
  let message: String
  /// The quota that was met, if it was one.
  let quota: LendError.Quota?

  init(_ error: ResponseError, _ kind: MistakeKind, _ message: String, quota: LendError.Quota? = nil) {
    (self.error, self.kind, self.message, self.quota) = (error, kind, message, quota)
  }

  /// What stands against lending a resource's memory, or copying it. A limit that was met is out-of-memory to the guest; a
  /// list that makes no sense is its own mistake.
  init(_ error: LendError, resource id: ResourceID) {
    let answer: ResponseError
    switch error {
    case .memory, .short, .unaligned: answer = .invalidParameter
    default: answer = .outOfMemory
    }
    var quota: LendError.Quota?
    if case .quota(let met, _, _) = error { quota = met }
    self.init(answer, MistakeKind(error), "resource \(id) cannot be lent: \(error)", quota: quota)
  }
}

/// What a guest does wrong or asks for in vain, by the names that log, statistics (`protocolErrors`) and docs/causes.md use.
package enum MistakeKind: String, Sendable, CaseIterable {
  // What the driver does wrong with its queues and answers.
  case brokenRing, malformedChain, malformedCommand, noRoom, unknownCommand
  // Commands that make no sense.
  case invalidResource, invalidScanout, rectangle, format, size, stride, cursorSize, blob, emptyList,
    backingTwice
  case noBacking, context, mapping, offer
  /// The guest named memory that it does not have.
  case memory
  // What stands against lending where nothing is to be copied.
  case shortBacking, unalignedEntry, listLimit, sizeLimit, notSealedMemfd, udmabuf, noDevice, descriptorLimit,
    quota
  /// Memory of the host that cannot be shown without a copy.
  case hostMemory
  // What a sink refuses.
  case noOutput, importing, bouncing, mode, part, offset, disconnected, busy, other
  // What did not work on our side.
  case store, descriptors, lostNews, releasedLate

  init(_ error: LendError) {
    self =
      switch error {
      case .memory: .memory
      case .short: .shortBacking
      case .unaligned: .unalignedEntry
      case .noDevice: .noDevice
      case .descriptors: .descriptorLimit
      case .quota: .quota
      case .udmabuf: error.cause.flatMap { MistakeKind(rawValue: $0.rawValue) } ?? .udmabuf
      }
  }

  init(_ refusal: SinkError.Refusal) {
    self =
      switch refusal {
      case .noOutput: .noOutput
      case .importing: .importing
      case .bouncing: .bouncing
      case .format: .format
      case .stride: .stride
      case .mode: .mode
      case .part: .part
      case .offset: .offset
      case .disconnected: .disconnected
      case .busy: .busy
      case .other: .other
      }
  }
}
