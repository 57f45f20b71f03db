internal import Buffers
internal import Scanout

/// Why a command was refused: the answer to the guest, and the kind and a sentence for the log.
struct Mistake: Error {
  let error: ResponseError
  let kind: MistakeKind
  let message: String
  /// The quota that the command would exceed, if any.
  let quota: LendError.Quota?

  init(_ error: ResponseError, _ kind: MistakeKind, _ message: String, quota: LendError.Quota? = nil) {
    (self.error, self.kind, self.message, self.quota) = (error, kind, message, quota)
  }

  /// Why a resource's memory cannot be lent or copied. The guest sees a limit as out-of-memory, and a senseless list as its
  /// own mistake.
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

/// The kinds of a guest's mistakes and vain requests, by their names in the log, the statistics (`protocolErrors`) and
/// docs/causes.md.
package enum MistakeKind: String, Sendable, CaseIterable {
  // Mistakes with queues and answers.
  case brokenRing, malformedChain, malformedCommand, noRoom, unknownCommand
  // Commands that make no sense.
  case invalidResource, invalidScanout, rectangle, format, size, stride, cursorSize, blob, emptyList,
    backingTwice
  case noBacking, context, mapping, offer
  /// The guest named memory that it does not have.
  case memory
  // Obstacles to lending, if nothing may be copied.
  case shortBacking, unalignedEntry, listLimit, sizeLimit, notSealedMemfd, udmabuf, noDevice, descriptorLimit,
    quota
  /// Memory of the host that cannot be shown without a copy.
  case hostMemory
  // Refusals of a sink.
  case noOutput, importing, bouncing, mode, part, offset, disconnected, busy, other
  // Failures on our side.
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
