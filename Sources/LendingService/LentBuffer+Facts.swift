internal import Buffers
internal import Lending
internal import LendingProtocol
internal import Linux

// The registry's facts in the form of the socket.

extension BufferFacts {
  init(_ buffer: LentBuffer, now: Instant) {
    let state: State
    var end: Instant?
    switch buffer.state {
    case .lent(let returns): (state, end) = (.lent, returns)
    case .returning(let until): (state, end) = (.returning, until)
    case .returned: state = .returned
    case .revoked: state = .revoked
    }
    self.init(
      id: buffer.id, state: state, use: buffer.request.use, offset: Int(buffer.request.offset),
      size: Int(buffer.request.size), age: Int((now - buffer.born).milliseconds),
      inode: buffer.pages?.dmabuf.map { Int($0.inode) }, users: buffer.imports.count, fills: buffer.fills,
      returns: end.map { Int(($0 - now).milliseconds) }, access: buffer.access)
  }
}

extension FillingFacts {
  init(_ fill: Fill) {
    self.init(bytesUsed: Int(fill.bytesUsed), timestamp: fill.timestamp, metadata: fill.metadata)
  }
}

extension QueryReply {
  /// - Parameter showsImporters: whether the caller may see the other importers.
  init(_ buffer: LentBuffer, now: Instant, showsImporters: Bool) {
    let (offset, size) = (buffer.request.offset, buffer.request.size)
    let (first, last) = (offset / systemPageSize, (offset + size - 1) / systemPageSize)
    let firstOffset = offset % systemPageSize
    self.init(
      buffer: BufferFacts(buffer, now: now), metadata: buffer.request.metadata,
      filling: buffer.lastFill.map(FillingFacts.init), pages: Int(last - first + 1),
      items: buffer.pages?.ranges.count ?? 0, firstOffset: Int(firstOffset),
      lastLength: Int(offset + size - max(offset, last * systemPageSize)), device: buffer.place.device,
      resource: Int(buffer.place.resource),
      importers: showsImporters
        ? buffer.imports.map {
          ImporterFacts(
            process: Int($0.caller.pid), user: Int($0.caller.user), forWriting: $0.forWriting,
            access: $0.access, filler: buffer.filler === $0)
        } : nil)
  }
}

extension BuffersEvent {
  init(_ event: LendingEvent, now: Instant) {
    let buffer = event.buffer
    self.init(.lent, BufferFacts(buffer, now: now))
    switch event.news {
    case .lent: metadata = buffer.request.metadata
    case .metadata: (self.event, metadata) = (.metadata, buffer.request.metadata)
    case .accessBegun: (self.event, mode) = (.accessBegun, buffer.access)
    case .accessEnded: self.event = .accessEnded
    case .filled:
      (self.event, filling, lost) = (.filled, buffer.lastFill.map(FillingFacts.init), event.lost)
    case .fillAborted: self.event = .fillAborted
    case .returning: self.event = .returning
    case .over:
      if case .revoked(let reason) = buffer.state {
        (self.event, self.reason) = (.revoked, reason)
      } else {
        self.event = .returned
      }
    default: preconditionFailure("importers are not told of \(event.news)")
    }
  }
}
