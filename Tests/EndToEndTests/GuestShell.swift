import Glibc
import Linux
import SystemPackage
import TestSupport

/// The command channel of a guest of `qemu/run-guest --shell`. `qemu/in-guest` does the same for people; a test asks often, and to start a
/// program each time takes longer than most answers.
struct GuestShell {
  enum Failure: Error {
    case guestEnded
    case late(String)
  }

  let path: FilePath

  /// Runs one command line in the guest.
  /// - Returns: its exit status and its output.
  func run(_ command: String, within limit: TimeSpan) throws -> (status: Int, output: String) {
    let channel = try Channel(path, until: .now + limit)
    try channel.waitUntilReady()
    return try channel.run(command)
  }

  private final class Channel {
    private let deadline: Instant
    private let socket: UnixSocket
    private var input: [UInt8] = []

    init(_ path: FilePath, until deadline: Instant) throws {
      self.deadline = deadline
      while true {
        do throws(Errno) {
          socket = try UnixSocket.connect(path)
          return
        } catch {
          guard [.noSuchFileOrDirectory, .connectionRefused, .wouldBlock].contains(error) else { throw error }
          if Instant.now > deadline { throw Failure.late("nobody listens on \(path)") }
          usleep(20_000)
        }
      }
    }

    /// What nobody else says: what other callers asked for can come late.
    private static func mark() -> String { "@@" + String(UInt32.random(in: .min ... .max), radix: 16) }

    /// Asks until it is answered: what the guest said before we came is lost, and so is what we say before it listens.
    func waitUntilReady() throws {
      let mark = Self.mark()
      while true {
        if Instant.now > deadline { throw Failure.late("the guest is not ready") }
        try send("\necho \(mark)\n")
        let end = min(deadline, .now + .seconds(1))
        while let line = try line(until: end) { if line == mark { return } }
      }
    }

    func run(_ command: String) throws -> (status: Int, output: String) {
      let mark = Self.mark()
      try send("\(command)\necho \(mark) $?\n")
      var output = ""
      while true {
        guard let line = try line(until: deadline) else {
          throw Failure.late("«\(command)» has not ended in time; it said: \(output)")
        }
        if line.hasPrefix(mark) { return (Int(line.dropFirst(mark.count + 1)) ?? -1, output) }
        // Marks of earlier questions that are answered late are no part of the output.
        if !line.hasPrefix("@@") { output += line + "\n" }
      }
    }

    private func send(_ text: String) throws {
      var rest = Array(text.utf8)[...]
      while !rest.isEmpty {
        do throws(Errno) {
          let bytes = Array(rest)
          rest = rest.dropFirst(unsafe try socket.send(bytes.span.bytes))
        } catch {
          guard error == .wouldBlock else { throw Failure.guestEnded }
          if Instant.now > deadline { throw Failure.late("the guest takes no commands") }
          try wait(for: POLLOUT, until: deadline)
        }
      }
    }

    /// The next line; nil if none is complete by then.
    private func line(until end: Instant) throws -> String? {
      while true {
        if let newline = input.firstIndex(of: 0x0a) {
          defer { input.removeSubrange(...newline) }
          return String(decoding: input[..<newline], as: UTF8.self)
        }
        if Instant.now >= end { return nil }
        try wait(for: POLLIN, until: end)
        var none = ReceivedDescriptors()
        do throws(Errno) {
          if try socket.receive(into: &input, upTo: 1 << 16, descriptors: &none) == 0 {
            throw Errno.connectionReset
          }
        } catch { if error != .wouldBlock { throw Failure.guestEnded } }
      }
    }

    private func wait(for events: Int32, until end: Instant) throws {
      let left = max(1, min((end - .now).milliseconds, 60_000))
      var one = pollfd(fd: socket.fd.withRaw { $0 }, events: Int16(events), revents: 0)
      _ = unsafe poll(&one, 1, Int32(left))
    }
  }
}
