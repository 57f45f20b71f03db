import Lending
import Linux
import Logging
import Programs
import SystemPackage
import Tracing

/// The trace of what one guest reports: the file of `--trace`, and who writes into it.
final class GuestTrace {
  private let writer: TraceWriter
  private let feed = LendingFeed(.importer(LendingCaller(pid: 0, user: 0, groups: [], isTrusted: true)))
  /// The buffers that the trace has as lent.
  private var lent: Set<Int> = []

  /// Opens the file: nothing of it is opened later.
  init(_ path: String, limit: ByteCount, _ logger: Logger) throws {
    let file: FD
    do throws(Errno) { file = try FD.create(FilePath(path)) } catch {
      throw Trouble("the trace \(path) cannot be written: \(FD.whyNotCreated(error))")
    }
    do throws(Errno) { _ = try file.seekToEnd() } catch {
      // The guest would wait for whoever reads it.
      throw Trouble("the trace \(path) is a pipe or a terminal, for which the guest would wait: name a file")
    }
    writer = TraceWriter(file, limit: limit.bytes) { stop in
      switch stop {
      case .full(let limit):
        logger.notice(
          "the trace \(path) ends here: it has the \(limit) bytes of --trace-limit; give a larger one")
      case .failed(let errno):
        logger.error("the trace \(path) ends here: it cannot be written: \(errno)")
      }
    }
  }

  /// What this device of the guest, by its number, writes.
  func device(_ number: Int) -> DeviceTrace { DeviceTrace(writer, device: number) }

  /// Writes also which buffers the guest lends.
  func follow(_ registry: Registry) {
    feed.whenNews = { [unowned self] in
      while let event = feed.next() { note(event) }
    }
    registry.add(feed)
  }

  private func note(_ event: LendingEvent) {
    let buffer = event.buffer
    let number = UInt64(buffer.number)
    if event.news == .over, lent.remove(buffer.number) != nil { writer.write(.giveBack(number)) }
    // It is told anew if its return is called off.
    guard event.news == .lent, lent.insert(buffer.number).inserted else { return }
    let resource = TracedResource(device: buffer.place.device, number: buffer.place.resource)
    writer.write(
      .lend(number, resource, offset: buffer.request.offset, bytes: buffer.request.size))
  }

  /// Writes what was collected.
  func flush() { writer.flush() }

  func end() { writer.end() }
}
