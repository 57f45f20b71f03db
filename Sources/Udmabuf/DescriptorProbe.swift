internal import CUdmabuf
internal import Glibc
package import SystemPackage

/// What the kernel says of a descriptor in `/proc/self/fdinfo`, for when nothing can be opened any more. Such a file tells of whatever has
/// its number at the moment. So one is opened before, and what is asked about takes its number for a moment.
package final class DescriptorProbe {
  /// Takes the number in between.
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

  /// The kernel driver that made a dma-buf, such as `udmabuf`; nil for what is none.
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
