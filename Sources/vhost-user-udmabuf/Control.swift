import ArgumentParser
import Buffers
import Consumers
import Lending
import LendingService
import Linux
import Logging
import Programs
import SystemPackage
import Varlink

/// The options of the control socket, on which other processes get the guest's frames.
struct ControlOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Offer the guest's frames to other processes on this Unix socket (varlink, io.udmabridge.Display), with a card or without one.",
      valueName: "socket"))
  var control: String?

  @Option(
    help: ArgumentHelp(
      "The group of the --control socket; its members may use the socket.", valueName: "name"))
  var controlGroup: String?

  @Option(
    help: ArgumentHelp(
      "The mode of the --control socket, octal. By default 600; 660 with --control-group, 666 with --control-allow.",
      valueName: "mode"), transform: octal)
  var controlMode: UInt32?

  @Option(
    help: ArgumentHelp(
      "A user or group that may use the --control socket, besides this program's own user: UID or group:NAME. May be repeated.",
      valueName: "who"))
  var controlAllow: [Allowed] = []

  @Option(
    help: ArgumentHelp(
      "At most this many connections to the --control socket at once, of all users together. By default 32.",
      valueName: "count"),
    transform: places)
  var controlConnections: Int?

  @Option(
    help: ArgumentHelp(
      "At most this many calls of Watch and Stream on the --control socket at once. By default as many as connections.",
      valueName: "count"), transform: places)
  var controlWatchers: Int?

  /// With fewer, some users would get none.
  private static let counts = UserShares.fewest...1024

  private static func places(_ text: String) throws -> Int {
    guard let count = Int(text), counts.contains(count) else {
      throw ValidationError("give a number from \(counts.lowerBound) to \(counts.upperBound), not \(text)")
    }
    return count
  }

  private static func octal(_ text: String) throws -> UInt32 {
    guard let mode = UInt32(text, radix: 8), mode <= 0o777 else {
      throw ValidationError("\(text) is not a mode: give three octal digits, such as 660")
    }
    return mode
  }

  func validate() throws {
    if control != nil { return }
    if controlGroup != nil || controlMode != nil || !controlAllow.isEmpty || controlConnections != nil
      || controlWatchers != nil
    {
      throw ValidationError(
        "--control-group, --control-mode, --control-allow, --control-connections and --control-watchers need "
          + "--control SOCKET")
    }
  }

  var connections: Int { controlConnections ?? VarlinkServer.connectionLimit }

  var mode: UInt32 {
    controlMode ?? (!controlAllow.isEmpty ? 0o666 : controlGroup != nil ? 0o660 : 0o600)
  }
}

/// The users that may use the control socket.
enum Allowed: ExpressibleByArgument {
  case user(UInt32)
  case group(String)

  init?(argument: String) {
    if let user = UInt32(argument) {
      self = .user(user)
    } else if argument.hasPrefix("group:"), argument.count > 6 {
      self = .group(String(argument.dropFirst(6)))
    } else {
      return nil
    }
  }
}

/// The control socket of one helper.
final class Control {
  /// The descriptors that the socket may need. Each connection needs one more: for the stream that it became, or for
  /// descriptors that wait for a caller who does not read. The rest is for the sources, one descriptor on its way, and
  /// the imports.
  /// - Parameters:
  ///   - lending: the limits of imports; nil if nothing can be imported.
  ///   - offers: the limits of callers' offers; nil if callers cannot offer.
  static func descriptors(
    _ options: ControlOptions, lending: LendingLimits? = nil, offers: OfferLimits? = nil
  ) -> Int {
    if options.control == nil { return 0 }
    // A caller may pass descriptors and then leave them waiting.
    let passed = offers == nil ? 0 : ReceivedDescriptors.capacity * options.connections
    let each = lending == nil ? 1 : BuffersInterface.descriptorsPerConnection
    return (1 + each) * options.connections + 8 + (lending.map(BuffersInterface.descriptors) ?? 0)
      + passed + (offers.map(OffersService.descriptors) ?? 0)
  }

  private let path: FilePath
  private let sink: ControlSink
  private let server: VarlinkServer
  private let buffers: BuffersInterface?

  /// Listens. Everything that the socket needs is opened here.
  /// - Parameters:
  ///   - offers: memory that the guest may map; callers can get it too.
  ///   - lending: the buffers that the guest lends and the offers to it, if it may lend.
  ///   - maker: makes offers from descriptors that callers pass.
  ///   - statistics: the device's statistics, a JSON object: all of them, or those that any caller may know.
  init(
    _ options: ControlOptions, _ sink: ControlSink, offers: [UInt64: Memfd], lending: GuestLending? = nil,
    maker: OfferMaker, loop: EventLoop, logger: Logger, statistics: @escaping (_ isTrusted: Bool) -> [UInt8]
  ) throws {
    guard let name = options.control else { preconditionFailure("a control socket has a path") }
    (path, self.sink) = (FilePath(name), sink)
    func number(_ group: String, _ option: String) throws -> UInt32 {
      guard let number = groupNumber(of: group) else {
        throw Trouble("\(option): there is no group \(group)")
      }
      return number
    }
    let group = try options.controlGroup.map { try number($0, "--control-group") }
    // Root could act as any user.
    var (users, groups) = (Set([effectiveUser(), 0]), Set(group.map { [$0] } ?? []))
    for allowed in options.controlAllow {
      switch allowed {
      case .user(let user): users.insert(user)
      case .group(let name): groups.insert(try number(name, "--control-allow group:\(name)"))
      }
    }
    let watchers = WatcherLimit(options.controlWatchers ?? options.connections)
    buffers = lending.map { lending in
      let offers = lending.offers.map { table in
        OffersService(table, loop: loop) {
          id, fd, uses, token throws(OfferObstacle) in
          try maker.make(id, of: fd, uses: uses, token: token)
        }
      }
      return BuffersInterface(lending.registry, offers, watchers: watchers, loop: loop)
    }
    let socket = try listenOn(path, mode: options.mode, group: group)
    do throws(Errno) {
      let interface = DisplayInterface(sink, offers: offers, watchers: watchers, statistics: statistics)
      let info = VarlinkInfo(vendor: "udmabridge", product: programName, version: programVersion, url: "")
      server = try VarlinkServer(
        socket, info: info, interfaces: [interface] + (buffers.map { [$0] } ?? []),
        limit: options.connections, takesDescriptors: lending?.offers != nil, loop: loop
      ) {
        [users, groups] peer in users.contains(peer.user) || !groups.isDisjoint(with: peer.groups)
      }
      interface.server = server
    } catch {
      removeFile(path)
      throw Trouble("the control socket \(path) cannot be served: \(error)")
    }
    // A refused caller may try again and again. Its lines must not use up those for the guest.
    var refusals = RareLine()
    server.whenRefused = { why in if let line = refusals.admit(why) { logger.notice("\(line)") } }
    logger.info("the guest's frames are offered on \(path)")
  }

  /// Tells the watchers, and ends all connections.
  /// - Parameter removing: whether the sandbox still allows to remove files; otherwise the next start removes the socket.
  func end(removing: Bool) {
    sink.end()
    buffers?.end()
    server.close()
    if removing { removeFile(path) }
  }
}
