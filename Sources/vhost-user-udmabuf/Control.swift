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

/// The options of the socket on which other processes get at the guest's frames.
struct ControlOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Offer the guest's frames to other processes on this Unix socket (varlink, io.udmabridge.Display), beside a card or without one.",
      valueName: "socket"))
  var control: String?

  @Option(
    help: ArgumentHelp(
      "The group that the socket of --control belongs to; its members may use it.", valueName: "name"))
  var controlGroup: String?

  @Option(
    help: ArgumentHelp(
      "The mode of that socket, octal. By default 600; 660 with --control-group, 666 with --control-allow.",
      valueName: "mode"), transform: octal)
  var controlMode: UInt32?

  @Option(
    help: ArgumentHelp(
      "Who may use it beside this program's own user: UID or group:NAME. May be repeated.",
      valueName: "who"))
  var controlAllow: [Allowed] = []

  @Option(
    help: ArgumentHelp(
      "Connections to that socket at once, of all users together. By default 32.", valueName: "count"),
    transform: places)
  var controlConnections: Int?

  @Option(
    help: ArgumentHelp(
      "Calls of Watch and Stream on that socket at once. By default as many as connections.",
      valueName: "count"), transform: places)
  var controlWatchers: Int?

  /// Fewer would leave none to some users.
  private static let counts = UserShares.fewest...1024

  private static func places(_ text: String) throws -> Int {
    guard let count = Int(text), counts.contains(count) else {
      throw ValidationError("give a number from \(counts.lowerBound) to \(counts.upperBound), not \(text)")
    }
    return count
  }

  private static func octal(_ text: String) throws -> UInt32 {
    guard let mode = UInt32(text, radix: 8), mode <= 0o777 else {
      throw ValidationError("\(text) is no mode: give three octal digits, such as 660")
    }
    return mode
  }

  func validate() throws {
    if control != nil { return }
    if controlGroup != nil || controlMode != nil || !controlAllow.isEmpty || controlConnections != nil
      || controlWatchers != nil
    {
      throw ValidationError(
        "--control-group, --control-mode, --control-allow, --control-connections and --control-watchers are about "
          + "the socket of --control")
    }
  }

  var connections: Int { controlConnections ?? VarlinkServer.connectionLimit }

  var mode: UInt32 {
    controlMode ?? (!controlAllow.isEmpty ? 0o666 : controlGroup != nil ? 0o660 : 0o600)
  }
}

/// Who may use the control socket.
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
  /// Descriptors that it may need: its connections, each with another one as the stream that it became or with those that
  /// wait for a caller who does not read, its sources, and one that is being passed; and those of imports.
  /// - Parameters:
  ///   - lending: what may be imported; nil if nothing is.
  ///   - offers: what callers may offer; nil if nothing.
  static func descriptors(
    _ options: ControlOptions, lending: LendingLimits? = nil, offers: OfferLimits? = nil
  ) -> Int {
    if options.control == nil { return 0 }
    // Whoever may pass some can keep them waiting.
    let passed = offers == nil ? 0 : ReceivedDescriptors.capacity * options.connections
    let each = lending == nil ? 1 : BuffersInterface.descriptorsPerConnection
    return (1 + each) * options.connections + 8 + (lending.map(BuffersInterface.descriptors) ?? 0)
      + passed + (offers.map(OffersService.descriptors) ?? 0)
  }

  private let path: FilePath
  private let sink: ControlSink
  private let server: VarlinkServer
  private let buffers: BuffersInterface?

  /// Listens. Nothing of it is opened later.
  /// - Parameters:
  ///   - offers: memory that the guest may map, which is handed out.
  ///   - lending: the buffers that the guest lends, and what it is offered, if it may lend any.
  ///   - maker: makes offers of what callers pass.
  ///   - statistics: the device's, a JSON object: all of them, or what any caller may know.
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
    // Root could become any of them.
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
    // Whoever is refused may try again and again, and must not use up the lines that are there for the guest.
    var refusals = RareLine()
    server.whenRefused = { why in if let line = refusals.admit(why) { logger.notice("\(line)") } }
    logger.info("the guest's frames are offered on \(path)")
  }

  /// Tells those who watch, and ends all connections.
  /// - Parameter removing: the sandbox still lets files be removed; else the next start does it.
  func end(removing: Bool) {
    sink.end()
    buffers?.end()
    server.close()
    if removing { removeFile(path) }
  }
}
