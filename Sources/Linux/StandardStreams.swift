package import SystemPackage

/// Writes a line to standard error, in one call if the system allows it. Errors of standard error are ignored: there is
/// no place to report them.
package func printError(_ line: String) {
  let bytes = Array(line.utf8) + [0x0a]
  _ = try? FD.standardError { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}

/// Writes a line to standard output, past the C library, which would ask the kernel whether the output is a terminal.
package func printLine(_ line: String) throws(Errno) {
  let bytes = Array(line.utf8) + [0x0a]
  try FD.standardOutput { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}
