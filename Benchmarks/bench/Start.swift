import Linux
import SystemPackage
import Udmabuf

/// How long QEMU has to wait for the helper: from starting the program until its socket accepts.
///
/// The first peer is the least that starting a program costs here: a C program that does nothing, from its start until it has
/// ended. The second one, in C, has the helper's libraries and only listens. `--print-capabilities` needs all that the
/// helper does before it opens anything: the loader, the runtime, the options. The socket is tried about every 100 us, which
/// the figures of listening contain.
func benchStart() throws {
  heading("start: from starting the program until its socket accepts")
  let peer = FilePath(CommandLine.arguments[0]).removingLastComponent().appending("bench-listen")
  let nowhere = try FD.open("/dev/null", writable: true)
  func ending(_ program: FilePath, _ arguments: [String] = []) throws -> Double {
    try nanoseconds {
      let child = try Child(program, arguments, output: nowhere, input: nowhere)
      try check(child.wait() == 0, "\(program) ends well")
    } / 1e6
  }
  func listening(_ start: () throws -> BackEndProcess) throws -> Double {
    let begin = Instant.now
    let process = try start()
    let time = (Instant.now - begin).nanoseconds
    _ = consume process  // With which it is killed.
    return Double(time) / 1e6
  }
  func compare(
    _ what: String, _ name: String, _ ours: () throws -> Double, _ theirs: () throws -> Double
  ) throws {
    var pairs = Pairs()
    try pairs.measure(41, ours, theirs)
    row(
      what, pairs.ours.median, "ms", peer: name, pairs.theirs.median, ratio: pairs.ratio)
  }
  let helper = { try listening { try BackEndProcess.startHelper() } }
  try compare("start to listening", "/bin/true, start to end", helper) { try ending("/bin/true") }
  try compare("start to listening", "C, the same libraries", helper) {
    try listening { try BackEndProcess.start(peer) }
  }
  try compare(
    "options and capabilities, start to end", "C, the same libraries, to end",
    { try ending(BackEndProcess.helper, ["--print-capabilities"]) }, { try ending(peer) })
}
