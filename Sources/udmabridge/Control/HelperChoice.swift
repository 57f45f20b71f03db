import ArgumentParser
import DisplayProtocol
import DomainOptions
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Varlink

/// The control socket of a running `vhost-user-udmabuf`, and calls of its interface.
struct HelperChoice: ParsableArguments {
  @Option(
    help: ArgumentHelp("The control socket of a helper (vhost-user-udmabuf --control).", valueName: "socket"))
  var control: String?

  @Option(
    help: ArgumentHelp("A running domain of libvirt, in place of its helper's socket.", valueName: "name"))
  var domain: String?

  func validate() throws {
    if (control == nil) == (domain == nil) {
      throw ValidationError("which guest? --control SOCKET or --domain NAME")
    }
  }

  /// The path of the socket.
  func path() throws -> FilePath { try Self.path(control: control, domain: domain) }

  /// The path of the socket that one of the two options names.
  static func path(control: String?, domain: String?) throws -> FilePath {
    guard let domain else { return FilePath(control ?? "") }
    let places = try DomainPlaces(domain)
    if let socket = places.existingControl { return socket }
    let chosen = places.chosenControl
    let (origin, otherwise) =
      chosen == nil
      ? (
        "",
        ", or with an option control that you may not read in \(places.options) (then give --control SOCKET)"
      )
      : (", which its option control names", "")
    throw Trouble(
      "domain \(domain) has no control socket (\(chosen ?? places.control)\(origin)): it does not run, or not with "
        + "vhost-user-udmabuf\(otherwise); udmabridge libvirt check says what it lacks")
  }

  func connect() throws -> DisplayClient { try DisplayClient(path()) }

  func buffers() throws -> BuffersClient { try BuffersClient(path()) }
}
