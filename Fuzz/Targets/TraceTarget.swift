internal import Tracing

// Feeds the text of a trace in pieces of any size.

func fuzzTrace(_ input: inout Input) throws {
  let pieces = (0..<Int(input.byte() % 8)).map { _ in Int(input.byte()) }
  // Most of what can be wrong is behind the first line.
  let said = Array((input.byte() % 8 == 0 ? "" : TraceEvent.header).utf8) + input.take(input.remaining)
  let (events, error) = try parsed(said, [])
  let (others, otherError) = try parsed(said, pieces)
  expect(events == others, "it depends on the pieces what is understood")
  expect(error == otherError, "\(String(describing: error)) and \(String(describing: otherError))")
  // The events that were read, written again, are a trace that says the same. Only a long name can make a line too long.
  if events.contains(where: hasLongName) { return }
  var text = Array(TraceEvent.header.utf8)
  for event in events { event.write(to: &text) }
  let (again, noError) = try parsed(text, [])
  expect(again == events && noError == nil, "\(events) was written, and \(again) is read")
}

private func hasLongName(_ event: TraceEvent) -> Bool {
  guard case .memory(let parts) = event else { return false }
  return parts.contains { $0.memory.utf8.count > TraceLimits.lineLength / 2 }
}

/// - Parameter pieces: the sizes of those that come first; the rest comes at once.
private func parsed(_ said: [UInt8], _ pieces: [Int]) throws -> (events: [TraceEvent], error: TraceError?) {
  var (parser, rest, events) = (TraceParser(), said[...], [TraceEvent]())
  do {
    for piece in pieces + [said.count] {
      try parser.feed(rest.prefix(piece)) { events.append($1) }
      rest = rest.dropFirst(piece)
    }
    try parser.finish()
    return (events, nil)
  } catch let error as TraceError { return (events, error) }
}
