package import SystemPackage

/// Writes a line to standard error, in one call where the system lets it. A standard error that is closed
/// or full of trouble is not ours to report.
package func printError(_ line: String) {
  let bytes = Array(line.utf8) + [0x0a]
  _ = try? FD.standardError { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}

/// Writes a line to standard output, past the C library, which asks of a new standard output whether it is a terminal.
package func printLine(_ line: String) throws(Errno) {
  let bytes = Array(line.utf8) + [0x0a]
  try FD.standardOutput { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
}
