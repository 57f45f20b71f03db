internal import Fixtures
internal import Glibc
internal import Linux
internal import Synchronization
package import SystemPackage

/// Held while a process is started, and while a pipe is made: one that is started in between would inherit an end, and
/// whoever reads the other one would wait for it.
private let starting = Mutex(())

/// A process of ours, waited for by its id. It ends with this object at the latest: an ended one that nobody waits for
/// would be all that `#expect(processExitsWith:)` sees, which waits for any child.
package final class Child {
  package let pid: Int32
  private var status: Int32?

  /// Starts a program with standard input from nowhere and no signal blocked.
  /// - Parameter descriptors: which of ours it gets under which number, standard output and error included;
  ///   those that are not named are ours.
  package init(_ program: FilePath, _ arguments: [String], descriptors: [Int32: Int32] = [:]) throws {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    // Out of the way of the numbers that they get, any of which may be another one's here.
    let above = (descriptors.keys.max() ?? 0) + 1
    let copies = descriptors.mapValues { fcntl($0, F_DUPFD_CLOEXEC, above) }
    defer { for copy in copies.values { close(copy) } }
    for (theirs, ours) in copies { unsafe posix_spawn_file_actions_adddup2(&actions, ours, theirs) }
    // The threads that run tests block signals, and would hand that on.
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    unsafe sigemptyset(&none)
    unsafe posix_spawnattr_setsigmask(&attributes, &none)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))

    var words: [UnsafeMutablePointer<CChar>?] = unsafe ([program.string] + arguments).map {
      unsafe strdup($0)
    }
    unsafe words.append(nil)
    defer { for index in unsafe words.indices { unsafe free(words[index]) } }
    var pid: pid_t = 0
    let error = starting.withLock { _ in
      unsafe posix_spawn(&pid, program.string, &actions, &attributes, &words, environ)
    }
    guard error == 0 else { throw TroubleInTest("\(program) cannot be started: error \(error)") }
    self.pid = pid
  }

  /// - Returns: the exit status once it has ended, 128 and the signal's number if it was killed.
  package func poll() -> Int32? { reap(WNOHANG) }

  /// Waits for its end. One that does not come in twice `Patience` is brought about, which its status tells.
  @discardableResult
  package func wait() -> Int32 {
    var pause: UInt32 = 200
    let limit = Patience.limit * 2
    let deadline = Instant.now + limit
    while Instant.now < deadline {
      if let status = poll() { return status }
      usleep(pause)
      pause = min(pause * 2, 5000)
    }
    printError("process \(pid) has not ended in \(limit), and is killed")
    kill(pid, SIGKILL)
    while true { if let status = reap(0) { return status } }
  }

  private func reap(_ options: Int32) -> Int32? {
    if let status { return status }
    var word: Int32 = 0
    guard unsafe waitpid(pid, &word, options) == pid else { return nil }
    status = word & 0x7f == 0 ? word >> 8 & 0xff : 128 + word & 0x7f
    return status
  }

  deinit {
    signal(SIGKILL)
    wait()
  }

  package var isRunning: Bool { poll() == nil }

  /// Sends a signal, unless it has ended.
  package func signal(_ number: Int32) { if isRunning { _ = kill(pid, number) } }

  /// Stops it: when this returns it does nothing more until SIGCONT.
  package func stop() throws {
    signal(SIGSTOP)
    var word: Int32 = 0
    try waitUntil("process \(pid) has stopped") {
      if !isRunning { throw TroubleInTest("process \(pid) has ended with status \(poll() ?? 0)") }
      return unsafe waitpid(pid, &word, WUNTRACED | WNOHANG) == pid
    }
  }
}

/// Runs a program to its end and returns what it wrote to standard output, and to standard error if that is
/// wanted too.
@discardableResult
package func run(
  _ program: FilePath, _ arguments: [String], withErrors: Bool = false
) throws -> (status: Int32, output: String) {
  let (child, reader) = try startReading(program, arguments, withErrors: withErrors)
  let output = try reader.readToEnd()
  return (child.wait(), output)
}

/// The end of a pipe that a child writes to.
package final class PipeEnd {
  private let fd: FD
  /// What was read and not returned.
  private var rest: [UInt8] = []
  init(_ fd: consuming FD) { self.fd = fd }

  /// All that was not read as a line, once nobody writes any more.
  package func readToEnd() throws -> String {
    while try readMore() {}
    defer { rest = [] }
    return String(decoding: rest, as: UTF8.self)
  }

  /// The next line, without its end; nil if nobody writes any more.
  package func readLine() throws -> String? {
    while true {
      if let end = rest.firstIndex(of: 0x0a) {
        defer { rest.removeSubrange(...end) }
        return String(decoding: rest[..<end], as: UTF8.self)
      }
      guard try readMore() else { return nil }
    }
  }

  /// - Returns: false when nobody writes any more.
  private func readMore() throws -> Bool {
    // Who writes may wait for something itself.
    let limit = Patience.limit * 2
    guard try fd.isReadable(within: limit) else {
      throw TroubleInTest("no output in \(limit), behind «\(String(decoding: rest, as: UTF8.self))»")
    }
    let more = try fd.read(upTo: 65536)
    rest += more
    return !more.isEmpty
  }
}

/// Starts a program whose output can be read until its end.
package func startReading(
  _ program: FilePath, _ arguments: [String], withErrors: Bool = false, descriptors: [Int32: Int32] = [:]
) throws -> (child: Child, output: PipeEnd) {
  var ends: [CInt] = [-1, -1]
  try starting.withLock { _ in
    guard unsafe pipe(&ends) == 0 else { throw TroubleInTest("no pipe") }
    // Ours alone from now on.
    for end in ends { guard fcntl(end, F_SETFD, FD_CLOEXEC) == 0 else { throw TroubleInTest("no pipe") } }
  }
  let reader = PipeEnd(FD(adopting: ends[0]))
  let writer = FD(adopting: ends[1])
  var all = descriptors
  all[1] = writer.withRaw { $0 }
  if withErrors { all[2] = all[1] }
  return (try Child(program, arguments, descriptors: all), reader)
}

package struct TroubleInTest: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// The repository, whose `qemu` folder has the programs that a person would use.
package let repository = FilePath(#filePath).removingLastComponent().removingLastComponent()
  .removingLastComponent()

/// What `qemu/setup` fetches is there.
package let testCache: FilePath = {
  func variable(_ name: String) -> String? { unsafe getenv(name).map { unsafe String(cString: $0) } }
  let folder = variable("XDG_CACHE_HOME") ?? (variable("HOME") ?? "") + "/.cache"
  return FilePath(variable("UDMABRIDGE_CACHE") ?? folder + "/udmabridge")
}()

/// The folder of the programs that were built with these tests, wherever these are run.
package let builtPrograms: FilePath = {
  let bundle = FilePath(CommandLine.arguments.first { $0.hasSuffix(".xctest") } ?? "")
  return (bundle.isAbsolute ? bundle : resolvingLinks("/proc/self/cwd").pushing(bundle))
    .removingLastComponent()
}()

/// A new directory for one test.
package func makeTemporaryDirectory() throws -> FilePath {
  var template = Array("/tmp/udmabridge-XXXXXX".utf8CString)
  guard unsafe mkdtemp(&template) != nil else { throw TroubleInTest("no directory in /tmp: \(errno)") }
  return FilePath(String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self))
}
