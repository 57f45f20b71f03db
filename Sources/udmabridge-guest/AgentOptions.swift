import ArgumentParser
import LendingProtocol
import Linux
import Programs
import SystemPackage
import Varlink

/// The option by which a command reaches the agent.
struct AgentOptions: ParsableArguments {
  @Option(help: ArgumentHelp("The agent's socket (udmabridge-guest serve --socket).", valueName: "socket"))
  var socket = usualSocket

  func connect() throws -> VarlinkClient {
    do throws(VarlinkClientError) { return try VarlinkClient(FilePath(socket)) } catch {
      switch error {
      case .connecting(_, .noSuchFileOrDirectory):
        throw Trouble("\(error): start udmabridge-guest serve, or name its socket with --socket")
      case .connecting(_, .permissionDenied):
        throw Trouble(
          "\(error): only root, the agent's user, and the group of udmabridge-guest serve --group may lend")
      default: throw error
      }
    }
  }
}

private let interface = "io.udmabridge.Lender."

/// The full name of a method of the agent.
func method(_ name: String) -> String { interface + name }

/// An error's text for people.
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

/// A command's output as JSON, in one line.
func line(_ value: some JSONWritable) -> String {
  var json = JSONWriter()
  value.write(to: &json)
  return String(decoding: json.bytes, as: UTF8.self)
}
