import ArgumentParser
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Varlink

/// How a command reaches the agent that serves.
struct AgentOptions: ParsableArguments {
  @Option(help: ArgumentHelp("Where the agent serves.", valueName: "socket"))
  var socket = usualSocket

  func connect() throws -> VarlinkClient {
    do throws(VarlinkClientError) { return try VarlinkClient(FilePath(socket)) } catch {
      switch error {
      case .connecting(_, .noSuchFileOrDirectory):
        throw Trouble("\(error): start udmabridge-guest serve, or say where it serves with --socket")
      case .connecting(_, .permissionDenied):
        throw Trouble(
          "\(error): lending is for the agent's user and the group of udmabridge-guest serve --group")
      default: throw error
      }
    }
  }
}

private let interface = "io.udmabridge.Lender."

/// The full name of a method of the agent's.
func method(_ name: String) -> String { interface + name }

/// An error, as people read it.
func explained(_ error: any Error) -> any Error {
  guard case VarlinkClientError.answered(let name, let parameters) = error, name.hasPrefix(interface) else {
    return error
  }
  return Trouble("\(name.dropFirst(interface.count)): \(parameters.trimmingPrefix("reason "))")
}

extension BufferID: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

extension BufferUse: ExpressibleByArgument {}

/// JSON of what a command prints, in one line.
func line(_ value: some JSONWritable) -> String {
  var json = JSONWriter()
  value.write(to: &json)
  return String(decoding: json.bytes, as: UTF8.self)
}
