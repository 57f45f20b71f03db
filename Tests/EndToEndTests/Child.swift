import Glibc
import Linux

/// A process of ours, waited for by its id.
final class Child {
  let pid: pid_t
  private var status: Int32?

  /// Starts a program with standard input from nowhere; its standard output goes to `output` if given.
  init(_ program: String, _ arguments: [String], output: CInt? = nil) throws {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    if let output { unsafe posix_spawn_file_actions_adddup2(&actions, output, 1) }
    var words: [UnsafeMutablePointer<CChar>?] = unsafe ([program] + arguments).map { unsafe strdup($0) }
    unsafe words.append(nil)
    defer { for index in unsafe words.indices { unsafe free(words[index]) } }
    var pid: pid_t = 0
    let error = unsafe posix_spawn(&pid, program, &actions, nil, &words, environ)
    guard error == 0 else { throw TroubleInTest("\(program) cannot be started: error \(error)") }
    self.pid = pid
  }

  /// - Returns: the exit status once it has ended, 128 and the signal's number if it was killed.
  func poll() -> Int32? { reap(WNOHANG) }

  @discardableResult
  func wait() -> Int32 {
    while true { if let status = reap(0) { return status } }
  }

  private func reap(_ options: Int32) -> Int32? {
    if let status { return status }
    var word: Int32 = 0
    guard unsafe waitpid(pid, &word, options) == pid else { return nil }
    status = word & 0x7f == 0 ? word >> 8 & 0xff : 128 + word & 0x7f
    return status
  }

  var isRunning: Bool { poll() == nil }

  /// Sends a signal, unless it has ended.
  func signal(_ number: CInt) { if isRunning { kill(pid, number) } }
}

/// Runs a program to its end.
@discardableResult
func run(_ program: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
  var ends: [CInt] = [-1, -1]
  guard unsafe pipe(&ends) == 0 else { throw TroubleInTest("no pipe") }
  let reader = try FD.inherited(ends[0])
  let child: Child
  do {
    let writer = try FD.inherited(ends[1])
    child = try Child(program, arguments, output: writer.withRaw { $0 })
  }
  var output: [UInt8] = []
  while true {
    let more = try reader.read(upTo: 65536)
    if more.isEmpty { break }
    output += more
  }
  return (child.wait(), String(decoding: output, as: UTF8.self))
}
