internal import Glibc
internal import SystemPackage

/// Gives up the pages of this program's own code, most of which only its start needed. Pages that are used again come back
/// from the kernel's cache of the file. This is for programs that run long and are mostly idle.
/// The corresponding C call is `madvise` with `MADV_DONTNEED`.
package func forgetUsedCode() {
  guard let maps = try? readText("/proc/self/maps", upTo: 16 << 20) else { return }
  var code: [(start: UInt, end: UInt)] = []
  for line in maps.split(separator: "\n") {
    let fields = line.split(separator: " ", maxSplits: 5)
    // Nobody writes into these, so the file has their content.
    guard fields.count == 6, fields[1] == "r-xp", fields[5].utf8.contains(UInt8(ascii: "/")) else { continue }
    let bounds = fields[0].split(separator: "-")
    guard bounds.count == 2, let start = UInt(bounds[0], radix: 16), let end = UInt(bounds[1], radix: 16),
      start < end
    else { continue }
    code.append((start, end))
  }
  // Code that runs after this comes back from the file.
  for (start, end) in code {
    unsafe madvise(UnsafeMutableRawPointer(bitPattern: start), Int(end - start), MADV_DONTNEED)
  }
}
