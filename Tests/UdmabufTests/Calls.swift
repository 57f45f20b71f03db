import CLinux
import CUdmabuf
import Glibc
import SystemPackage
import Udmabuf

@testable import Linux

/// Makes a file shorter or longer. The corresponding C function is `ftruncate`.
func resize(_ fd: borrowing FD, _ size: UInt64) throws(Errno) {
  _ = try fd.withRaw { raw throws(Errno) in try retrying { cu_truncate(raw, Int64(size)) } }
}

/// Asks the kernel for a udmabuf without checking anything first.
func createUnchecked(_ range: MemfdRange) throws(Errno) {
  let device = try FD.open(UdmabufDevice.path, writable: true)
  let raw = try device.withRaw { device throws(Errno) in
    try range.memfd.withDescriptor { memfd throws(Errno) in
      try memfd.withRaw { memfd throws(Errno) in
        try retrying { cu_udmabuf_create(device, memfd, range.offset, range.length) }
      }
    }
  }
  _ = FD(adopting: raw)
}
