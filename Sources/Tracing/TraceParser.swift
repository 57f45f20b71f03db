internal import Guest
internal import Linux

/// A mistake in a trace.
package struct TraceError: Error, Equatable, CustomStringConvertible {
  /// From 1 on.
  package let line: Int
  /// The mistake: the value, the limit and the remedy.
  package let what: String

  package init(line: Int, _ what: String) { (self.line, self.what) = (line, what) }

  package var description: String { "line \(line): \(what)" }
}

/// Reads a trace in pieces, wherever they were cut. A trace is input from outside: each line is short, and each number has its
/// limits. The parser does not know which resources exist.
package struct TraceParser {
  /// The first line of the event that is being read.
  private var start = 0
  /// Nil until the trace tells its end.
  package private(set) var end: TraceEnd?

  /// The list whose lines are still to come.
  private enum List {
    case memory(count: Int)
    case attach(TracedResource, count: Int)
  }

  private var line = 1
  private var text: [UInt8] = []
  private var list: List?
  private var parts: [LayoutLine] = []
  private var entries: [GuestRange] = []

  package init() {}

  /// The number of whole lines that were read.
  package var lines: Int { line - 1 }

  /// Takes the next piece of the text, and tells each event in it with the line in which the event begins.
  package mutating func feed(
    _ bytes: ArraySlice<UInt8>, _ tell: (Int, TraceEvent) throws -> Void
  ) throws {
    for byte in bytes {
      if byte != UInt8(ascii: "\n") {
        text.append(byte)
        if text.count > TraceLimits.lineLength {
          throw error("«\(shown(text[...]))» has more than \(TraceLimits.lineLength) bytes; make it shorter")
        }
        continue
      }
      if line > TraceLimits.lines {
        throw error("a trace has \(TraceLimits.lines) lines at most; leave the rest out")
      }
      if let event = try event() { try tell(start, event) }
      text.removeAll(keepingCapacity: true)
      line += 1
    }
  }

  /// Ends the text. The parser ignores a last line or list that is cut off: the helper has not written the rest.
  package func finish() throws(TraceError) {
    if line == 1 { throw error("the file is empty or cut off; a trace begins with \(Self.header)") }
  }

  private static let header = TraceEvent.header.dropLast()

  private mutating func event() throws(TraceError) -> TraceEvent? {
    if line == 1 {
      guard text.elementsEqual(Self.header.utf8) else {
        throw error("«\(shown(text[...]))» is no first line of a trace, which is \(Self.header)")
      }
      return nil
    }
    if end != nil { throw error("the trace has ended in the line before; leave this line out") }
    switch list {
    case .memory(let count):
      guard let part = LayoutLine(text[...]) else {
        throw error(
          "«\(shown(text[...]))» is no part \(parts.count + 1) of \(count) of a memory, such as 0x100000000:1G mem 2G"
        )
      }
      parts.append(part)
      if parts.count == count {
        defer { (list, parts) = (nil, []) }
        return .memory(parts)
      }
    case .attach(let resource, let count):
      guard let entry = GuestRange(traced: text[...]) else {
        throw error(
          "«\(shown(text[...]))» is no entry \(entries.count + 1) of \(count) of a page list, such as 0x1000:0x1000"
        )
      }
      entries.append(entry)
      if entries.count == count {
        defer { (list, entries) = (nil, []) }
        return .attach(resource, entries)
      }
    case nil:
      start = line
      var words = TraceWords(text[...])
      do throws(TraceMistake) {
        switch try words.first() {
        case .memory(let parts): list = .memory(count: parts)
        case .attach(let resource, let entries): list = .attach(resource, count: entries)
        case .event(let event):
          if case .end(let end) = event { self.end = end }
          return event
        }
      } catch { throw self.error("«\(shown(text[...]))»: \(error.what)") }
    }
    return nil
  }

  private func error(_ what: String) -> TraceError { TraceError(line: line, what) }
}
