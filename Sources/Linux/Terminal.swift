internal import CLinux
internal import Glibc
internal import SystemPackage

/// A program's terminal as one screen, which is drawn again and again. At the end the terminal shows its earlier content.
package final class Terminal {
  /// Escape sequences: the alternate screen without a cursor, and both back.
  private static let (begin, end) = ("\u{1b}[?1049h\u{1b}[?25l", "\u{1b}[?25h\u{1b}[?1049l")
  /// The earlier settings of standard input.
  private var saved: termios?
  private var isEntered = false

  /// Whether standard input is a terminal too, so that keys can be read one by one.
  package let hasKeys = isatty(0) == 1

  /// - Returns: nil if standard output is not a terminal, or one that cannot draw (`TERM=dumb`).
  package init?() {
    guard isatty(1) == 1 else { return nil }
    if let kind = unsafe getenv("TERM"), unsafe strcmp(kind, "dumb") == 0 { return nil }
  }

  deinit { leave() }

  /// Begins to draw. From now on keys are not echoed and come one by one; those that send signals still do.
  package func enter() {
    guard !isEntered else { return }
    isEntered = true
    var mode = termios()
    if hasKeys, unsafe tcgetattr(0, &mode) == 0 {
      saved = mode
      mode.c_lflag &= ~tcflag_t(ICANON | ECHO)
      _ = unsafe tcsetattr(0, TCSANOW, &mode)
    }
    write(Self.begin)
  }

  /// Restores the terminal.
  package func leave() {
    guard isEntered else { return }
    isEntered = false
    write(Self.end)
    guard var mode = saved.take() else { return }
    // Keys that were typed for this program are dropped.
    _ = unsafe tcsetattr(0, TCSAFLUSH, &mode)
  }

  /// The size in characters; the traditional one if it is unknown.
  package var size: (rows: Int, columns: Int) {
    var (rows, columns) = (UInt16(0), UInt16(0))
    guard unsafe cl_terminal_size(1, &rows, &columns) == 0, rows > 0, columns > 0 else { return (24, 80) }
    return (Int(rows), Int(columns))
  }

  /// Draws these lines in place of the present ones. The caller leaves out lines that do not fit.
  package func draw(_ lines: [String]) {
    // To avoid flicker, it draws over the old lines, and clears the end of each line and the rest below.
    write("\u{1b}[H" + lines.joined(separator: "\u{1b}[K\n") + "\u{1b}[K\u{1b}[J")
  }

  private func write(_ text: String) {
    let bytes = Array(text.utf8)
    _ = try? FD.standardOutput { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
  }
}
