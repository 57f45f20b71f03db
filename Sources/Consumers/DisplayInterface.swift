internal import DisplayProtocol
package import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf
package import Varlink

/// Serves `io.udmabridge.Display`, which gives the frames of a `ControlSink` to other processes.
package final class DisplayInterface: VarlinkInterface {
  package let name = displayInterfaceName
  package let description = displayDescription
  package let upgradedMethods = ["Stream"]

  private let sink: ControlSink
  /// Memory of this process that the guest may map, by its number.
  private let offers: [UInt64: Memfd]
  /// The device's statistics as a JSON object: all of them for a trusted caller, the public ones for others.
  private let statistics: (_ isTrusted: Bool) -> [UInt8]
  private let watchers: WatcherLimit
  private var consumers: [ObjectIdentifier: Consumer] = [:]
  /// The server of this interface, asked for its connection counts.
  package weak var server: VarlinkServer?

  package init(
    _ sink: ControlSink, offers: [UInt64: Memfd] = [:],
    watchers: WatcherLimit = WatcherLimit(VarlinkServer.connectionLimit),
    statistics: @escaping (_ isTrusted: Bool) -> [UInt8]
  ) {
    (self.sink, self.offers, self.watchers, self.statistics) = (sink, offers, watchers, statistics)
  }

  // MARK: Parameters

  private struct WhichFrame: VarlinkParameters {
    static let names = ["scanout", "since", "hold"]
    let scanout, since: Int?
    let hold: Bool?
  }

  private struct WhichScanout: VarlinkParameters {
    static let names = ["scanout"]
    let scanout: Int?
  }

  private struct WhichBuffer: VarlinkParameters {
    static let names = ["buffer"]
    let buffer: Int
  }

  private struct WhichOffer: VarlinkParameters {
    static let names = ["offer"]
    let offer: Int
  }

  // MARK: Methods

  package func handle(
    _ method: String, _ call: VarlinkCall, from connection: VarlinkConnection
  ) throws(VarlinkError) {
    switch method {
    case "GetOutputs":
      _ = try call.parameters(EmptyObject.self)
      connection.reply(DisplayOutputs(outputs: sink.displayOutputs()))
    case "GetFrame": try getFrame(try call.parameters(), connection)
    case "GetCursor": try getCursor(try call.parameters(), connection)
    case "GetOffer": try getOffer(try call.parameters(WhichOffer.self).offer, connection)
    case "Hold":
      let buffer = try call.parameters(WhichBuffer.self).buffer
      guard let frame = sink.frame(buffer) else { throw noSuchBuffer(buffer) }
      try hold(frame, connection)
      connection.reply(EmptyObject())
    case "Release":
      let buffer = try call.parameters(WhichBuffer.self).buffer
      guard sink.release(buffer, by: consumer(connection)) else { throw noSuchBuffer(buffer) }
      connection.reply(EmptyObject())
    case "Watch":
      _ = try call.parameters(EmptyObject.self)
      // A caller that wants no reply cannot get events.
      guard call.wantsMore, !call.isOneway else { throw .expectedMore }
      try admitWatcher(connection)
      watch(connection)
    case "Stream":
      _ = try call.parameters(EmptyObject.self)
      try admitWatcher(connection)
      connection.upgrade(EmptyObject()) { [unowned self, unowned connection] in stream($0, connection) }
    case "Statistics":
      _ = try call.parameters(EmptyObject.self)
      let device = statistics(watchers.isTrusted(connection))
      connection.reply(StatisticsReply(device: device, control: control))
    default: throw .methodNotFound(call.method)
    }
  }

  private func getFrame(_ which: WhichFrame, _ connection: VarlinkConnection) throws(VarlinkError) {
    let index = try scanout(which.scanout)
    if let since = which.since, since < 0 { throw .invalidParameter("since") }
    guard let shown = sink.shown(index),
      let (frame, damage) = sink.picture(index, since: which.since.map(UInt64.init))
    else { throw error("NoFrame", "scanout", index) }
    let fd: FD
    do throws(Errno) {
      switch shown.frame.memory {
      case .lent(let dmabuf):
        fd = try dmabuf.withSharedDescriptor { fd throws(Errno) in try fd.duplicate() }
      case .shadow(let memory): fd = try memory.descriptor()
      }
    } catch let errno { throw error("NoDescriptor", "errno", Int(errno.rawValue)) }
    if which.hold ?? false { try hold(shown.frame, connection) }
    connection.reply(DisplayFrameReply(frame: frame, damage: damage, fileDescriptor: 0), passing: fd)
  }

  private func getCursor(_ which: WhichScanout, _ connection: VarlinkConnection) throws(VarlinkError) {
    let index = try scanout(which.scanout)
    let cursor = sink.displayCursor(index)
    guard let image = sink.cursor(index)?.image else {
      return connection.reply(DisplayCursorReply(cursor: cursor, fileDescriptor: nil))
    }
    let fd: FD
    do throws(Errno) {
      let size = image.pixels.count
      let memfd = try Memfd.create(
        name: "udmabridge-cursor", size: UInt64(size), seals: [.shrink, .grow, .seal])
      fd = try memfd.withDescriptor { fd throws(Errno) in
        unsafe try Mapping(fd, offset: 0, length: size, writable: true).store(image.pixels.span.bytes, at: 0)
        return try fd.duplicate()
      }
    } catch let errno { throw error("NoDescriptor", "errno", Int(errno.rawValue)) }
    connection.reply(DisplayCursorReply(cursor: cursor, fileDescriptor: 0), passing: fd)
  }

  private func getOffer(_ number: Int, _ connection: VarlinkConnection) throws(VarlinkError) {
    guard let memfd = UInt64(exactly: number).flatMap({ offers[$0] }) else {
      throw error("NoSuchOffer", "offer", number)
    }
    let fd: FD
    do throws(Errno) {
      fd = try memfd.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    } catch let errno { throw error("NoDescriptor", "errno", Int(errno.rawValue)) }
    connection.reply(DisplayOfferReply(size: Int(memfd.status.size), fileDescriptor: 0), passing: fd)
  }

  private func hold(_ frame: Frame, _ connection: VarlinkConnection) throws(VarlinkError) {
    guard sink.hold(frame, for: consumer(connection)) else {
      throw error("TooManyHolds", "limit", ControlSink.holdsPerConsumer)
    }
  }

  private func admitWatcher(_ connection: VarlinkConnection) throws(VarlinkError) {
    if let limit = watchers.add(connection) { throw error("TooManyWatchers", "limit", limit) }
  }

  private func watch(_ connection: VarlinkConnection) {
    let watcher = Watcher(sink, connection)
    let consumer = consumer(connection)
    consumer.feed = watcher
    sink.add(watcher)
    connection.beginStream { [weak watcher] in watcher?.proceed() }
    watcher.proceed()
  }

  private func stream(_ socket: consuming UnixSocket, _ connection: VarlinkConnection) {
    let consumer = consumer(connection)
    do throws(Errno) {
      let stream = try QEMUDisplayStream(sink, consumer, socket, loop: sink.loop) { [weak connection] in
        connection?.close()
      }
      consumer.feed = stream
      sink.add(stream)
    } catch { connection.close() }
  }

  private struct StatisticsReply: JSONWritable {
    let device: [UInt8]
    let control: ControlStatistics

    func write(to json: inout JSONWriter) {
      json.object { json in
        json.field("device") { json in json.raw(device) }
        json.field("control", control)
      }
    }
  }

  private var control: ControlStatistics {
    var now = sink.currentStatistics
    (now.connections, now.refused) = (server?.connectionCount ?? 0, server?.refusedCount ?? 0)
    return now
  }

  // MARK: Callers

  private func consumer(_ connection: VarlinkConnection) -> Consumer {
    let id = ObjectIdentifier(connection)
    if let known = consumers[id] { return known }
    let consumer = Consumer(connection)
    consumers[id] = consumer
    connection.whenGone(for: self) { [unowned self] in
      guard let gone = consumers.removeValue(forKey: id) else { return }
      // A feed may keep its consumer alive, so the consumer lets go of the feed.
      if let feed = gone.feed.take() { sink.remove(feed) }
      sink.releaseAll(of: gone)
    }
    return consumer
  }

  private func scanout(_ number: Int?) throws(VarlinkError) -> Int {
    let index = number ?? 0
    guard index >= 0, index < sink.scanoutCount else { throw error("NoSuchScanout", "scanout", index) }
    return index
  }

  private func noSuchBuffer(_ buffer: Int) -> VarlinkError { error("NoSuchBuffer", "buffer", buffer) }

  private func error(_ error: String, _ field: StaticString, _ number: Int) -> VarlinkError {
    VarlinkError("\(name).\(error)", field, .number(number))
  }
}
