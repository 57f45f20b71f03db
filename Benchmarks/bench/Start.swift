import Linux
import SystemPackage

/// How long QEMU has to wait for the helper: from starting the program until its socket accepts.
///
/// The peer is the least that starting a program costs here: a C program that does nothing, from its start
/// until it has ended. The socket is tried about every 100 us, which the figure contains.
func benchStart() throws {
  heading("start: from starting the program until its socket accepts")
  var pairs = Pairs()
  try pairs.measure(
    20,
    {
      let start = Instant.now
      let helper = try BackEndProcess.startHelper()
      let time = (Instant.now - start).nanoseconds
      _ = consume helper  // With which it is killed.
      return Double(time) / 1e6
    },
    {
      try nanoseconds { try check(try Child("/bin/true").wait() == 0, "/bin/true is there") } / 1e6
    })
  row(
    "start to listening, median of 20", pairs.ours.median, "ms", peer: "/bin/true, start to end",
    pairs.theirs.median, ratio: pairs.ratio)
}
