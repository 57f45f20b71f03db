internal import CUdmabuf
internal import Glibc
package import SystemPackage

/// Reads `/proc/self/fdinfo` of a descriptor when no file can be opened any more. Such a file tells of the descriptor that
/// has its number at the moment. The probe opens one early, and lends its number to each descriptor that it asks about.
package final class DescriptorProbe {
  /// Has the number while nothing is asked.
  private let nothing: FD
  private let slot: FD
  private let information: FD

  package init() throws(Errno) {
    nothing = try FD.open("/dev/null", writable: false)
    slot = try nothing.duplicate()
    information = try slot.withRaw { raw throws(Errno) in
      try FD.open(FilePath("/proc/self/fdinfo/\(raw)"), writable: false)
    }
  }

  /// The kernel driver that made a dma-buf, such as `udmabuf`; nil if the descriptor is not a dma-buf.
  package func exporter(of fd: borrowing FD) throws(Errno) -> String? {
    try fill(fd)
    let text = Result { () throws(Errno) in try information.read(upTo: 4096, at: 0) }
    try fill(nothing)
    return DMABuf.line("exp_name:", of: String(decoding: try text.get(), as: UTF8.self))
  }

  private func fill(_ fd: borrowing FD) throws(Errno) {
    _ = try fd.withRaw { source throws(Errno) in
      try slot.withRaw { target throws(Errno) in try retrying { cu_dup_over(source, target) } }
    }
  }
}
