internal import CLinux
internal import Glibc
internal import SystemPackage

/// The terminal that a program writes to, as one screen that is drawn again and again. At the end the terminal shows its
/// earlier content again.
package final class Terminal {
  /// Of the kernel's terminals: another screen and no cursor; both back.
  private static let (begin, end) = ("\u{1b}[?1049h\u{1b}[?25l", "\u{1b}[?25h\u{1b}[?1049l")
  /// The settings of standard input before.
  private var saved: termios?
  private var isEntered = false

  /// Standard input is a terminal too: keys can be read there, one by one while this is entered.
  package let hasKeys = isatty(0) == 1

  /// - Returns: nil where standard output is no terminal, or one that cannot draw (`TERM=dumb`).
  package init?() {
    guard isatty(1) == 1 else { return nil }
    if let kind = unsafe getenv("TERM"), unsafe strcmp(kind, "dumb") == 0 { return nil }
  }

  deinit { leave() }

  /// Begins to draw. Keys are neither echoed nor kept for a line from now on; those that send signals still do.
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

  /// Everything is as it was.
  package func leave() {
    guard isEntered else { return }
    isEntered = false
    write(Self.end)
    guard var mode = saved.take() else { return }
    // This program has had all keys until now: those left are dropped.
    _ = unsafe tcsetattr(0, TCSAFLUSH, &mode)
  }

  /// The size in characters; what terminals have been since ever where it is not known.
  package var size: (rows: Int, columns: Int) {
    var (rows, columns) = (UInt16(0), UInt16(0))
    guard unsafe cl_terminal_size(1, &rows, &columns) == 0, rows > 0, columns > 0 else { return (24, 80) }
    return (Int(rows), Int(columns))
  }

  /// Draws these lines in place of all that is there. The caller leaves out lines that do not fit.
  package func draw(_ lines: [String]) {
    // From the upper left corner: the end of each line is cleared behind it, and then what is below, so that nothing flickers.
    write("\u{1b}[H" + lines.joined(separator: "\u{1b}[K\n") + "\u{1b}[K\u{1b}[J")
  }

  private func write(_ text: String) {
    let bytes = Array(text.utf8)
    _ = try? FD.standardOutput { fd throws(Errno) in unsafe try fd.write(bytes.span.bytes) }
  }
}
