import CLinux
import CSeccomp
import CUdmabuf
import Glibc
import RawCall
import Testing

@testable import Sandbox

/// The number of a system call; nil if this architecture has none of that name.
func number(of name: String) -> Int? {
  let number = unsafe seccomp_syscall_resolve_name(name)
  return number >= 0 ? Int(number) : nil
}

/// Makes a system call by its name. The arguments that are not given are 0.
func rawCall(_ name: String, _ arguments: Int...) -> Int {
  let given = arguments + Array(repeating: 0, count: 6 - arguments.count)
  return raw_call(number(of: name)!, given[0], given[1], given[2], given[3], given[4], given[5])
}

/// A system call with these arguments that ends the process in these phases.
struct ForbiddenCall: Sendable, CustomTestStringConvertible {
  let name: String
  let arguments: [Int]
  let phases: [Sandbox.Phase]
  let what: String

  init(
    _ name: String, _ arguments: Int..., in phases: [Sandbox.Phase] = Sandbox.Phase.allCases,
    what: String = ""
  ) {
    (self.name, self.arguments, self.phases, self.what) = (name, arguments, phases, what)
  }

  var testDescription: String { what.isEmpty ? name : "\(name), \(what)" }

  static let all: [ForbiddenCall] = [
    // Files.
    .init("open"), .init("openat", -100), .init("openat2", -100), .init("creat"), .init("name_to_handle_at"),
    .init("open_by_handle_at"), .init("memfd_secret"), .init("readlink"), .init("getdents64"),
    .init("rename"), .init("link"), .init("symlink"), .init("mkdir"), .init("rmdir"), .init("mknod"),
    .init("chmod"), .init("fchmod"), .init("chown"), .init("fchown"), .init("truncate"), .init("setxattr"),
    .init("stat"), .init("newfstatat", -100, what: "by path"), .init("inotify_init1"), .init("fanotify_init"),
    .init("unlink", in: [.offering, .serving]), .init("unlinkat", -100, in: [.offering, .serving]),
    // Programs, processes, threads.
    .init("execve"), .init("execveat"), .init("fork"), .init("vfork"), .init("clone"), .init("clone3"),
    .init("kill", Int(getpid()), 0), .init("tkill"),
    .init("tgkill", Int(getpid()), Int(getpid()), Int(SIGTERM), what: "a signal but SIGABRT"),
    .init("tgkill", 1, 1, Int(SIGABRT), what: "another process"),
    .init("ptrace"), .init("process_vm_readv"), .init("process_vm_writev"), .init("pidfd_open"),
    .init("pidfd_getfd"), .init("pidfd_send_signal"), .init("setpgid"), .init("setsid"), .init("wait4"),
    // Connections.
    .init("socket"), .init("socketpair"), .init("connect"), .init("bind"), .init("listen"), .init("accept"),
    .init("accept4", in: [.serving]), .init("pipe2", in: [.serving]), .init("pipe"), .init("sendto"),
    .init("setsockopt"),
    .init("getsockopt", 0, Int(SOL_SOCKET), Int(SO_PEERCRED), in: [.serving]),
    .init("getsockopt", 0, Int(SOL_SOCKET), Int(SO_TYPE), what: "SO_TYPE"),
    .init("getsockopt", 0, 6, Int(SO_PEERCRED), what: "of TCP"),
    // Privileges and limits.
    .init("prctl", 4, 1, what: "PR_SET_DUMPABLE"), .init("capset"), .init("setuid"), .init("setresuid"),
    .init("setgroups"), .init("setrlimit"), .init("prlimit64"), .init("personality"), .init("chroot"),
    .init("pivot_root"), .init("mount"), .init("umount2"), .init("unshare"), .init("setns"),
    .init("seccomp", 2, 0, what: "SECCOMP_GET_ACTION_AVAIL"),
    .init("seccomp", 1, 0, 0, in: [.offering, .serving], what: "SECCOMP_SET_MODE_FILTER"),
    .init("rt_sigaction"), .init("rt_sigreturn"),
    // Parts of the kernel that we have no use for.
    .init("io_uring_setup"), .init("bpf"), .init("perf_event_open"), .init("userfaultfd"), .init("keyctl"),
    .init("add_key"), .init("init_module"), .init("finit_module"), .init("delete_module"),
    .init("kexec_load"), .init("reboot"), .init("swapon"), .init("modify_ldt"), .init("shmget"),
    .init("shmat"), .init("mq_open"), .init("syslog"), .init("move_pages"), .init("vmsplice"),
    // Arguments.
    .init(
      "mmap", 0, 4096, Int(PROT_READ | PROT_EXEC), Int(MAP_PRIVATE | MAP_ANONYMOUS), -1, what: "PROT_EXEC"),
    .init("mprotect", 0, 4096, Int(PROT_READ | PROT_EXEC), what: "PROT_EXEC"),
    .init("pkey_mprotect", 0, 4096, Int(PROT_READ | PROT_EXEC), what: "PROT_EXEC"),
    .init("fcntl", 2, Int(F_DUPFD), what: "F_DUPFD"), .init("fcntl", 2, Int(F_SETOWN), what: "F_SETOWN"),
    .init("dup"), .init("dup2"), .init("dup3", in: [.serving]), .init("fstatfs", in: [.serving]),
    .init("ioctl", 2, 0x5412, what: "TIOCSTI"), .init("ioctl", 2, 0x541c, what: "TIOCLINUX"),
    .init("ioctl", 2, 0x540e, what: "TIOCSCTTY"), .init("ioctl", 2, 0x5421, what: "FIONBIO"),
    .init("ioctl", 2, 0xae01, what: "KVM_CREATE_VM"),
    .init("ioctl", 2, 0x4018_7544, what: "the number behind UDMABUF_CREATE_LIST"),
    .init("ioctl", 2, 0x4008_6204, what: "the number behind DMA_BUF_IOCTL_IMPORT_SYNC_FILE"),
    .init("ioctl", 2, 0xc008_640a, what: "DRM_IOCTL_GEM_FLINK"),
    .init("ioctl", 2, 0xc010_640b, what: "DRM_IOCTL_GEM_OPEN"),
    .init("ioctl", 2, 0xc01c_64ad, what: "DRM_IOCTL_MODE_GETFB"),
    .init("ioctl", 2, 0xc068_64ce, what: "DRM_IOCTL_MODE_GETFB2"),
    .init("ioctl", 2, 0xc018_64c6, what: "DRM_IOCTL_MODE_CREATE_LEASE"),
    .init("ioctl", 2, 0xc010_64c8, what: "DRM_IOCTL_MODE_GET_LEASE"),
    .init("ioctl", 2, 0xc010_64c1, what: "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD"),
    .init("ioctl", 2, 0xc010_6440, what: "the first call of a graphics driver"),
    .init("ioctl", 2, 0xc010_649f, what: "the last call of a graphics driver"),
    .init("ioctl", 2, 0xc010_64e0, what: "what lies behind DRM's calls"),
  ].filter { number(of: $0.name) != nil }
}

/// What a running helper does: a call that the sandbox must let through.
struct PermittedCall: Sendable, CustomTestStringConvertible {
  /// The names that it may have, of which one is in the sandbox's table.
  let names: [String]
  let what: String
  let phases: [Sandbox.Phase]
  /// Prepares, enters the sandbox, makes the call.
  /// - Returns: whether the call did what it is for.
  let attempt: @Sendable (_ enter: () -> Void) -> Bool

  init(
    _ names: String..., in phases: [Sandbox.Phase] = Sandbox.Phase.allCases, what: String = "",
    _ attempt: @escaping @Sendable (_ enter: () -> Void) -> Bool
  ) {
    (self.names, self.phases, self.what, self.attempt) = (names, phases, what, attempt)
  }

  var testDescription: String { what.isEmpty ? names[0] : "\(names[0]), \(what)" }

  /// An ioctl reaches the kernel, which says that an eventfd has none such.
  private static func ioctl(_ request: UInt32, _ what: String) -> PermittedCall {
    PermittedCall("ioctl", what: what) { enter in
      let fd = cl_eventfd()
      enter()
      return rawCall("ioctl", Int(fd), Int(request)) == -1 && errno == ENOTTY
    }
  }

  static let all = others + drm.map { ioctl($0, "DRM_IOCTL_\($1)") }

  private static let others: [PermittedCall] = [
    .init("accept4", in: [.waiting, .offering]) { enter in
      let path = "/tmp/udmabridge-accept-\(getpid())"
      unsafe unlink(path)  // Of an earlier process of that number.
      let listener = unsafe cl_unix_listen(path, path.utf8.count, -1)
      let client = unsafe cl_unix_connect(path, path.utf8.count, 5000)
      unsafe unlink(path)
      enter()
      return client >= 0 && cl_unix_accept(listener) >= 0
    },
    .init("getsockopt", in: [.waiting, .offering], what: "SO_PEERCRED and SO_PEERGROUPS") { enter in
      var ends: [CInt] = [-1, -1]
      _ = unsafe cl_unix_pair(&ends)
      var (pid, user, group) = (Int32(0), UInt32(0), UInt32(0))
      var groups = [UInt32](repeating: 0, count: 65536)
      var count = groups.count
      let (own, ownUser, ownGroup) = (getgroups(0, nil), geteuid(), getegid())
      enter()
      return unsafe cl_peer_credentials(ends[0], &pid, &user, &group) == 0 && pid == getpid()
        && user == ownUser
        && group == ownGroup && cl_peer_groups(ends[0], &groups, &count) == 0 && count == own
    },
    .init("pipe2", in: [.waiting, .offering]) { enter in
      var ends: [CInt] = [-1, -1]
      enter()
      return unsafe ends.withUnsafeMutableBytes { ends in
        rawCall("pipe2", Int(bitPattern: ends.baseAddress), Int(O_CLOEXEC | O_NONBLOCK)) == 0
      }
    },
    .init("fstatfs", in: [.waiting, .offering]) { enter in
      var (kind, block): (UInt32, UInt64) = (0, 0)
      let memfd = unsafe cu_memfd_create("kind", 0)
      enter()
      return unsafe cu_file_system(memfd, &kind, &block) == 0 && kind == CU_TMPFS_MAGIC
    },
    .init("dup3", in: [.waiting, .offering]) { enter in
      let ends = [cl_eventfd(), cl_eventfd()]
      enter()
      return cu_dup_over(ends[0], ends[1]) == ends[1]
    },
    .init("unlink", "unlinkat", in: [.waiting]) { enter in
      let path = "/tmp/udmabridge-unlink-\(getpid())"
      close(unsafe creat(path, 0o600))
      enter()
      return unsafe unlink(path) == 0
    },
    .init("seccomp", in: [.waiting], what: "SECCOMP_SET_MODE_FILTER, with no filter") { enter in
      enter()
      return rawCall("seccomp", 1, 0, 0) == -1 && errno == EFAULT
    },
    .init("epoll_wait", "epoll_pwait") { enter in
      let (epoll, event) = (cl_epoll_create(), cl_eventfd())
      var ready = cl_epoll_event()
      var one: UInt64 = 1
      enter()
      return unsafe cl_epoll_add(epoll, event, CL_EPOLLIN, 7) == 0 && write(event, &one, 8) == 8
        && cl_epoll_wait(epoll, &ready, 1, -1) == 1 && ready.token == 7
    },
    .init("epoll_ctl") { enter in
      let (epoll, event) = (cl_epoll_create(), cl_eventfd())
      enter()
      return cl_epoll_add(epoll, event, CL_EPOLLIN, 1) == 0
        && cl_epoll_modify(epoll, event, CL_EPOLLOUT, 1) == 0 && cl_epoll_remove(epoll, event) == 0
    },
    .init("poll", "ppoll", what: "of one descriptor") { enter in
      let event = cl_eventfd()
      enter()
      return cu_pollable(event, CL_EPOLLOUT, 0) == 1 && cu_pollable(event, CL_EPOLLIN, 0) == 0
    },
    .init("read") { enter in
      let event = cl_eventfd()
      var value: UInt64 = 1
      enter()
      return unsafe write(event, &value, 8) == 8 && read(event, &value, 8) == 8
    },
    .init("write") { enter in
      let event = cl_eventfd()
      var one: UInt64 = 1
      enter()
      return unsafe write(event, &one, 8) == 8
    },
    .init("writev") { enter in
      enter()
      return rawCall("writev", 2, 0, 0) == 0
    },
    .init("timerfd_settime") { enter in
      let timer = cl_timerfd()
      enter()
      return cl_timerfd_arm(timer, 1000) == 0 && cl_timerfd_arm(timer, 0) == 0
    },
    .init("clock_gettime") { enter in
      var now = timespec()
      enter()
      return unsafe withUnsafeMutablePointer(to: &now) {
        rawCall("clock_gettime", Int(CLOCK_MONOTONIC), Int(bitPattern: $0)) == 0
      }
    },
    .init("close") { enter in
      let event = cl_eventfd()
      enter()
      return close(event) == 0
    },
    .init("recvmsg", what: "with a descriptor", received),
    .init("sendmsg", what: "with a descriptor", received),
    .init("fcntl", what: "F_GETFL and F_SETFL") { enter in
      let event = cl_eventfd()
      enter()
      return cu_set_nonblocking(event) == 0
    },
    .init("fcntl", what: "F_ADD_SEALS and F_GET_SEALS") { enter in
      let memfd = unsafe cu_memfd_create("seals", CU_MFD_ALLOW_SEALING)
      enter()
      return cu_add_seals(memfd, CU_F_SEAL_SHRINK) == 0 && cu_get_seals(memfd) == CInt(CU_F_SEAL_SHRINK)
    },
    .init("fstat") { enter in
      var status = stat()
      enter()
      return unsafe withUnsafeMutablePointer(to: &status) {
        rawCall("fstat", 2, Int(bitPattern: $0)) == 0
      }
    },
    .init("newfstatat", what: "of a descriptor") { enter in
      var status = stat()
      let empty = unsafe strdup("")
      enter()
      return unsafe withUnsafeMutablePointer(to: &status) {
        rawCall(
          "newfstatat", 2, Int(bitPattern: empty), Int(bitPattern: $0), Int(CL_AT_EMPTY_PATH)) == 0
      }
    },
    .init("lseek") { enter in
      let memfd = unsafe cu_memfd_create("seek", 0)
      _ = cu_truncate(memfd, 12345)
      enter()
      return lseek(memfd, 0, SEEK_END) == 12345
    },
    .init("memfd_create") { enter in
      enter()
      return unsafe cu_memfd_create("shadow", CU_MFD_CLOEXEC | CU_MFD_ALLOW_SEALING) >= 0
    },
    .init("ftruncate") { enter in
      let memfd = unsafe cu_memfd_create("truncate", 0)
      enter()
      return cu_truncate(memfd, 4096) == 0
    },
    .init("pread64") { enter in
      let memfd = unsafe cu_memfd_create("read", 0)
      _ = cu_truncate(memfd, 4096)
      var value: UInt64 = 1
      enter()
      return unsafe pread(memfd, &value, 8, 0) == 8 && value == 0
    },
    .init("pwrite64") { enter in
      let memfd = unsafe cu_memfd_create("write", 0)
      var value: UInt64 = 1
      enter()
      return unsafe pwrite(memfd, &value, 8, 0) == 8
    },
    .init("mmap", what: "of a file, to write") { enter in
      let memfd = unsafe cu_memfd_create("map", 0)
      _ = cu_truncate(memfd, 4096)
      enter()
      return unsafe mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0) != MAP_FAILED
    },
    .init("munmap") { enter in
      let page = unsafe anonymousPage()
      enter()
      return unsafe munmap(page, 4096) == 0
    },
    .init("mprotect", what: "to read") { enter in
      let page = unsafe anonymousPage()
      enter()
      return unsafe mprotect(page, 4096, PROT_READ) == 0
    },
    .init("mremap") { enter in
      let page = unsafe anonymousPage()
      enter()
      return rawCall("mremap", Int(bitPattern: page), 4096, 1 << 20, 1) != -1
    },
    .init("madvise", what: "MADV_DONTDUMP") { enter in
      let page = unsafe anonymousPage()
      enter()
      return unsafe madvise(page, 4096, MADV_DONTDUMP) == 0
    },
    .init("brk") { enter in
      enter()
      return rawCall("brk", 0) > 0
    },
    .ioctl(0x4018_7542, "UDMABUF_CREATE"), .ioctl(0x4008_7543, "UDMABUF_CREATE_LIST"),
    .ioctl(0x4008_6200, "DMA_BUF_IOCTL_SYNC"), .ioctl(0x4008_6201, "DMA_BUF_SET_NAME_B"),
    .ioctl(0xc008_6202, "DMA_BUF_IOCTL_EXPORT_SYNC_FILE"),
    .ioctl(0x4008_6203, "DMA_BUF_IOCTL_IMPORT_SYNC_FILE"),
    .init("futex", what: "FUTEX_WAKE") { enter in
      var word: UInt32 = 0
      enter()
      return unsafe withUnsafeMutablePointer(to: &word) {
        rawCall("futex", Int(bitPattern: $0), 1, 1) == 0
      }
    },
    .init("getrandom") { enter in
      var word: UInt64 = 0
      enter()
      return unsafe withUnsafeMutablePointer(to: &word) {
        rawCall("getrandom", Int(bitPattern: $0), 8, 0) == 8
      }
    },
    .init("sysinfo", what: "by qsort") { enter in
      var numbers = Array((0..<1000).reversed())
      enter()
      unsafe qsort(&numbers, numbers.count, MemoryLayout<Int>.stride) { a, b in
        unsafe a!.load(as: Int.self) < b!.load(as: Int.self) ? -1 : 1
      }
      return numbers == Array(0..<1000) && sysconf(CInt(_SC_PHYS_PAGES)) > 0
    },
    .init("restart_syscall") { enter in
      enter()
      return rawCall("restart_syscall") == -1 && errno == EINTR
    },
    .init("gettid") { enter in
      enter()
      return rawCall("gettid") > 0
    },
    .init("getpid") { enter in
      enter()
      return rawCall("getpid") == Int(getpid())
    },
    .init("rt_sigprocmask") { enter in
      enter()
      return sigprocmask(SIG_BLOCK, nil, nil) == 0
    },
    .init("exit_group") { enter in
      enter()
      _exit(0)
    },
  ].filter { $0.names.contains { number(of: $0) != nil } }

  /// As `drm.h` has them, under the names that it gives them.
  static let drm: [(request: UInt32, name: String)] = [
    (0xc040_6400, "VERSION"), (0x4008_6409, "GEM_CLOSE"), (0xc010_640c, "GET_CAP"),
    (0x4010_640d, "SET_CLIENT_CAP"), (0x4004_6411, "AUTH_MAGIC"), (0x641e, "SET_MASTER"),
    (0x641f, "DROP_MASTER"), (0xc00c_642d, "PRIME_HANDLE_TO_FD"), (0xc00c_642e, "PRIME_FD_TO_HANDLE"),
    (0xc040_64a0, "MODE_GETRESOURCES"), (0xc068_64a1, "MODE_GETCRTC"), (0xc068_64a2, "MODE_SETCRTC"),
    (0xc01c_64a3, "MODE_CURSOR"), (0xc014_64a6, "MODE_GETENCODER"), (0xc050_64a7, "MODE_GETCONNECTOR"),
    (0xc040_64aa, "MODE_GETPROPERTY"), (0xc010_64ac, "MODE_GETPROPBLOB"), (0xc004_64af, "MODE_RMFB"),
    (0xc018_64b0, "MODE_PAGE_FLIP"), (0xc018_64b1, "MODE_DIRTYFB"), (0xc020_64b2, "MODE_CREATE_DUMB"),
    (0xc010_64b3, "MODE_MAP_DUMB"), (0xc010_64b5, "MODE_GETPLANERESOURCES"), (0xc020_64b6, "MODE_GETPLANE"),
    (0xc068_64b8, "MODE_ADDFB2"), (0xc020_64b9, "MODE_OBJ_GETPROPERTIES"), (0xc024_64bb, "MODE_CURSOR2"),
    (0xc038_64bc, "MODE_ATOMIC"),
    (0xc010_64bd, "MODE_CREATEPROPBLOB"), (0xc004_64be, "MODE_DESTROYPROPBLOB"),
  ]

  private static let received: @Sendable (() -> Void) -> Bool = { enter in
    var ends: [CInt] = [-1, -1]
    _ = unsafe cl_unix_pair(&ends)
    var passed = cl_eventfd()
    var (byte, fd, count, lost) = (UInt8(9), CInt(-1), 0, CInt(0))
    enter()
    return unsafe cl_send(ends[0], &byte, 1, &passed, 1) == 1
      && cl_receive(ends[1], &byte, 1, &fd, 1, &count, &lost) == 1 && count == 1 && fd >= 0
  }
}

private func anonymousPage() -> UnsafeMutableRawPointer? {
  unsafe mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
}
