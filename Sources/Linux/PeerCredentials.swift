internal import CLinux
internal import Glibc
package import SystemPackage

/// Who is at the other end of a Unix socket, as of the moment when it connected.
package struct PeerCredentials: Equatable, Sendable {
  /// The process.
  package var pid: Int32
  /// The effective user.
  package var user: UInt32
  /// The primary group and all others.
  package var groups: Set<UInt32>

  /// What is told of somebody.
  package init(pid: Int32, user: UInt32, groups: Set<UInt32>) {
    (self.pid, self.user, self.groups) = (pid, user, groups)
  }
}

extension UnixSocket {
  /// The kernel's word on who connected. The corresponding socket options are `SO_PEERCRED` and `SO_PEERGROUPS`.
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

/// The number of the group that is called `name`; nil if there is none. The corresponding C function is `getgrnam`.
package func groupNumber(of name: String) -> UInt32? {
  unsafe getgrnam(name)?.pointee.gr_gid
}

/// Gives the file of a socket that this process has just bound to a group. Another file that has come to this name
/// since keeps its own. The corresponding C function is `fchownat`.
/// - Throws: `fileExists` when it is not this process's socket any more.
package func setSocketGroup(_ path: FilePath, _ group: UInt32) throws(Errno) {
  // The name may become another file's at any time; a descriptor stays what was looked at.
  let file = FD(adopting: try retrying { unsafe path.withPlatformString { unsafe cl_open_name($0) } })
  let status = try file.status()
  guard status.isSocket, status.links == 1, status.user == geteuid() else { throw .fileExists }
  _ = try file.withRaw { raw throws(Errno) in try retrying { cl_give_to_group(raw, group) } }
}
