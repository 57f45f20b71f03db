internal import CLinux
internal import Glibc
package import SystemPackage

/// The process at the other end of a Unix socket, at the moment when it connected.
package struct PeerCredentials: Equatable, Sendable {
  /// The process.
  package var pid: Int32
  /// The effective user.
  package var user: UInt32
  /// The primary group and all others.
  package var groups: Set<UInt32>

  /// Takes the facts from elsewhere.
  package init(pid: Int32, user: UInt32, groups: Set<UInt32>) {
    (self.pid, self.user, self.groups) = (pid, user, groups)
  }
}

extension UnixSocket {
  /// Asks the kernel who connected. The corresponding socket options are `SO_PEERCRED` and `SO_PEERGROUPS`.
  package borrowing func peer() throws(Errno) -> PeerCredentials {
    let socket = fd.withRaw { $0 }
    var (pid, user, group) = (Int32(0), UInt32(0), UInt32(0))
    _ = try retrying { unsafe cl_peer_credentials(socket, &pid, &user, &group) }
    var groups = [UInt32](repeating: 0, count: 64)
    var count = groups.count
    do throws(Errno) {
      _ = try retrying { unsafe cl_peer_groups(socket, &groups, &count) }
    } catch {
      // The kernel's limit (NGROUPS_MAX).
      guard error == .outOfRange, count > groups.count, count <= 65536 else { throw error }
      groups = [UInt32](repeating: 0, count: count)
      _ = try retrying { unsafe cl_peer_groups(socket, &groups, &count) }
    }
    return PeerCredentials(pid: pid, user: user, groups: Set(groups.prefix(count)).union([group]))
  }
}

/// The user that this process acts for. The corresponding C function is `geteuid`.
package func effectiveUser() -> UInt32 { geteuid() }

/// The number of the group `name`; nil if there is none. The corresponding C function is `getgrnam`.
package func groupNumber(of name: String) -> UInt32? {
  unsafe getgrnam(name)?.pointee.gr_gid
}

/// Gives a socket's file, which this process has just made, to a group. If another file has taken its name since, that file
/// keeps its group. The corresponding C function is `fchownat`.
/// - Throws: `fileExists` if the file is no longer this process's socket.
package func setSocketGroup(_ path: FilePath, _ group: UInt32) throws(Errno) {
  // Another file may take the name at any time; the descriptor stays with the file that was looked at.
  let file = FD(adopting: try retrying { unsafe path.withPlatformString { unsafe cl_open_name($0) } })
  let status = try file.status()
  guard status.isSocket, status.links == 1, status.user == geteuid() else { throw .fileExists }
  _ = try file.withRaw { raw throws(Errno) in try retrying { cl_give_to_group(raw, group) } }
}
