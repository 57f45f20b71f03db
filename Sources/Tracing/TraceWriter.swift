package import Guest
package import Linux
package import Scanout
package import SystemPackage

/// Writes a trace into an open file. The writer collects text, never blocks for long, and ends by itself when the file is full
/// or cannot be written.
package final class TraceWriter {
  /// Why the trace ended before its helper.
  package enum Stop {
    case full(limit: UInt64)
    case failed(Errno)
  }

  /// The smallest limit of a file's size, in bytes.
  package static let leastLimit: UInt64 = 4096
  /// The text is written when it has this many bytes.
  private static let piece = 1 << 16
  /// The room for the line that says that the file is full.
  private static let room: UInt64 = 32

  private let file: FD
  private let limit: UInt64
  private let whenStopped: (Stop) -> Void
  /// The text that is to be written, and the file's size with it.
  private var text: [UInt8] = []
  private var size: UInt64 = 0
  private var memory: [LayoutLine] = []
  private var isOver = false

  /// - Parameters:
  ///   - file: an empty file.
  ///   - limit: the most bytes that the file may have, `leastLimit` at least.
  ///   - whenStopped: is called once at most.
  package init(_ file: consuming FD, limit: UInt64, whenStopped: @escaping (Stop) -> Void) {
    precondition(limit >= Self.leastLimit, "a trace has room for its first and last lines")
    self.file = file
    (self.limit, self.whenStopped) = (limit, whenStopped)
    text.reserveCapacity(Self.piece * 2)
    text += TraceEvent.header.utf8
    size = UInt64(text.count)
  }

  package func write(_ event: TraceEvent) {
    let start = text.count
    if isOver { return }
    event.write(to: &text)
    let count = UInt64(text.count - start)
    if size + count + Self.room > limit {
      text.removeLast(Int(count))
      return fill()
    }
    size += count
    if text.count >= Self.piece { flush() }
  }

  /// Writes a page list, and before it the memory if that has changed.
  package func attach(_ resource: TracedResource, _ entries: [GuestRange], _ memory: GuestMemory) {
    if isOver { return }
    let parts = memory.regions.map { LayoutLine($0) }
    if parts != self.memory, !parts.isEmpty {
      self.memory = parts
      write(.memory(parts))
      if isOver { return }
    }
    // A list may be longer than what is written at once.
    let most = (entries.count + 1) * TraceEvent.entrySize
    if size + UInt64(most) + Self.room > limit { return fill() }
    let line = "\(TraceEvent.attachLine(resource, count: entries.count))\n"
    text += line.utf8
    size += UInt64(line.utf8.count)
    for entry in entries {
      let start = text.count
      TraceEvent.write(entry, to: &text)
      size += UInt64(text.count - start)
      if text.count >= Self.piece { flush() }
      if isOver { return }
    }
  }

  /// Writes the collected text.
  package func flush() {
    if isOver { return }
    do throws(Errno) {
      unsafe try file.write(text.span.bytes)
      text.removeAll(keepingCapacity: true)
    } catch { stop(.failed(error)) }
  }

  /// Ends the trace, because the helper ends.
  package func end() {
    write(.end(.stopped))
    flush()
    isOver = true
  }

  private func fill() {
    TraceEvent.end(.full).write(to: &text)
    flush()
    if !isOver { stop(.full(limit: limit)) }
  }

  private func stop(_ why: Stop) {
    (isOver, text) = (true, [])
    whenStopped(why)
  }
}

/// Writes one device's events into its helper's trace.
package struct DeviceTrace {
  private let writer: TraceWriter
  private let device: Int

  package init(_ writer: TraceWriter, device: Int) { (self.writer, self.device) = (writer, device) }

  private func resource(_ number: UInt32) -> TracedResource {
    TracedResource(device: device, number: number)
  }

  package func start() { writer.write(.start(device: device)) }

  package func image(_ number: UInt32, _ layout: FrameLayout) {
    writer.write(.image(resource(number), width: layout.width, height: layout.height, layout.format))
  }

  package func blob(_ number: UInt32, bytes: UInt64, isOfHost: Bool) {
    writer.write(
      isOfHost ? .hostBlob(resource(number), bytes: bytes) : .blob(resource(number), bytes: bytes))
  }

  package func attach(_ number: UInt32, _ entries: [GuestRange], _ memory: GuestMemory) {
    writer.attach(resource(number), entries, memory)
  }

  package func detach(_ number: UInt32) { writer.write(.detach(resource(number))) }

  package func destroy(_ number: UInt32) { writer.write(.destroy(resource(number))) }

  /// - Parameter layout: the layout of an image in a blob; nil for a resource that is an image.
  package func scanout(_ scanout: UInt32, _ number: UInt32, _ area: Rectangle, in layout: FrameLayout? = nil)
  {
    let (scanout, resource) = (Int(scanout), resource(number))
    writer.write(
      layout.map { .blobScanout(scanout, resource, area, $0) } ?? .scanout(scanout, resource, area))
  }

  package func scanoutOff(_ scanout: UInt32) { writer.write(.scanoutOff(Int(scanout), device: device)) }

  package func flush(_ number: UInt32, _ area: Rectangle) { writer.write(.flush(resource(number), area)) }
}
