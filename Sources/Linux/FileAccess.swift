internal import Glibc
package import SystemPackage

/// The rights that a file's mode gives. Other rules (access control lists, security modules, cgroups) may forbid more.
package struct FileAccess: Equatable, Sendable {
  /// The permission bits alone.
  package let mode: UInt32
  /// The owner and the group.
  package let user, group: UInt32

  /// The access of the file at a path. The corresponding C function is `stat`.
  package init(of path: FilePath) throws(Errno) {
    var status = stat()
    _ = try retrying { unsafe path.withPlatformString { unsafe stat($0, &status) } }
    (mode, user, group) = (status.st_mode & 0o7777, status.st_uid, status.st_gid)
  }

  /// Whether an account may read and write the file.
  package func allowsWriting(_ account: Account) -> Bool {
    if account.user == 0 { return true }
    if account.user == user { return mode & 0o600 == 0o600 }
    return account.groups.contains(group) ? mode & 0o060 == 0o060 : mode & 0o006 == 0o006
  }

  /// Whether any execute bit is set.
  package var isExecutable: Bool { mode & 0o111 != 0 }
}

/// A user of this system.
package struct Account: Equatable, Sendable {
  /// The name; without one, the number.
  package let name: String
  /// Its number.
  package let user: UInt32
  /// The number of its own group.
  package let group: UInt32
  /// All its groups, the own one included.
  package let groups: Set<UInt32>

  /// The account of this name; nil if there is none. The corresponding C functions are `getpwnam` and `getgrouplist`.
  package init?(_ name: String) {
    guard let entry = unsafe getpwnam(name) else { return nil }
    let (user, group) = unsafe (entry.pointee.pw_uid, entry.pointee.pw_gid)
    var groups = [gid_t](repeating: 0, count: 1024)
    var count = CInt(groups.count)
    let found = unsafe getgrouplist(name, group, &groups, &count)
    (self.name, self.user, self.group) = (name, user, group)
    self.groups = found < 0 ? [group] : Set(groups.prefix(Int(count)))
  }

  /// An account by its numbers, which need not exist on this system.
  package init(name: String, user: UInt32, group: UInt32, groups: Set<UInt32> = []) {
    (self.name, self.user, self.group, self.groups) = (name, user, group, groups.union([group]))
  }
}

/// The name of a group; without one, its number. The corresponding C function is `getgrgid`.
package func groupName(of number: UInt32) -> String {
  guard let entry = unsafe getgrgid(number), let name = unsafe entry.pointee.gr_name else {
    return "\(number)"
  }
  return unsafe String(cString: name)
}
