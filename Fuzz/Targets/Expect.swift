internal import Linux
internal import SystemPackage

/// Ends the run with a line that says what is wrong. An optimised trap keeps its message to itself.
func fail(_ message: String) -> Never {
  try? FD.standardError { fd throws(Errno) in
    unsafe try fd.write(Array("found: \(message)\n".utf8).span.bytes)
  }
  fatalError()
}

func expect(_ condition: Bool, _ message: @autoclosure () -> String) {
  if !condition { fail(message()) }
}
