internal import Glibc
package import SystemPackage

/// The result of `fstat` for an open file.
public struct FileStatus: Equatable, Sendable {
  /// The file system that holds the file (`st_dev`).
  public let device: UInt64
  /// The file's number in its file system.
  public let inode: UInt64
  /// The size in bytes. A dma-buf reports 0 here; use `FD.seekToEnd`.
  public let size: UInt64
  /// Whether it is a socket of some kind.
  package let isSocket: Bool
  /// The owner.
  package let user: UInt32
  /// The number of its names (links).
  package let links: UInt64
  /// The device that a device file stands for.
  package let number: DeviceNumber

  init(_ status: stat) {
    (device, inode, size) = (
      UInt64(status.st_dev), UInt64(status.st_ino), UInt64(max(0, status.st_size))
    )
    isSocket = status.st_mode & S_IFMT == S_IFSOCK
    (user, links) = (status.st_uid, UInt64(status.st_nlink))
    number = DeviceNumber(UInt64(status.st_rdev))
  }

  /// The status of the file at `path`, or of the file that a link there leads to. The corresponding C function is `stat`.
  package init(of path: FilePath) throws(Errno) {
    var status = stat()
    _ = try retrying { unsafe path.withPlatformString { unsafe stat($0, &status) } }
    self.init(status)
  }
}

/// What an open file is, by the file system that holds it.
package enum FileKind: Equatable, Sendable {
  case dmaBuf
  /// A memfd, or a file of tmpfs.
  case sharedMemory
  /// A memfd of huge pages of this many bytes, or a file of hugetlbfs.
  case hugePages(UInt64)
  case other
}

/// The two numbers by which the kernel knows a device.
package struct DeviceNumber: Hashable, Sendable {
  /// The driver's number, and the device's with that driver.
  package let major, minor: UInt64

  /// Takes its two parts.
  package init(major: UInt64, minor: UInt64) { (self.major, self.minor) = (major, minor) }

  /// As a `dev_t` of the C library, which `FileStatus.device` is.
  package var packed: UInt64 {
    (major & 0xfff) << 8 | (major & 0xffff_f000) << 32 | minor & 0xff | (minor & 0xffff_ff00) << 12
  }

  /// Takes a `dev_t` of the C library apart. The corresponding C macros are `major` and `minor`.
  package init(_ number: UInt64) {
    major = number >> 8 & 0xfff | number >> 32 & 0xffff_f000
    minor = number & 0xff | number >> 12 & 0xffff_ff00
  }
}
