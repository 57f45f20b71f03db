internal import CLinux
internal import CUdmabuf
internal import Glibc

/// A condition on an argument of a system call: its bits under `mask` are those of `value`.
struct ArgumentTest: Sendable {
  let argument: UInt32
  let mask: UInt64
  let value: UInt64

  /// The argument is this 32-bit number. The kernel reads no more of a command, a request or a set of flags.
  static func argument(_ index: UInt32, is value: some BinaryInteger) -> ArgumentTest {
    argument(index, under: 0xffff_ffff, is: value)
  }

  static func argument(
    _ index: UInt32, under mask: some BinaryInteger, is value: some BinaryInteger
  ) -> ArgumentTest {
    ArgumentTest(argument: index, mask: UInt64(mask), value: UInt64(value))
  }
}

/// A system call that the sandbox allows, and its purpose.
struct AllowedCall: Sendable {
  /// The call's names on the known architectures, each of which has at least one of them.
  let names: [String]
  let phases: [Sandbox.Phase]
  /// All conditions of one of these lists must hold. Empty: any arguments.
  let conditions: [[ArgumentTest]]
  let reason: String

  init(
    _ names: String..., in phases: [Sandbox.Phase] = Sandbox.Phase.allCases,
    onlyIf conditions: [[ArgumentTest]] = [], for reason: String
  ) {
    (self.names, self.phases, self.conditions, self.reason) = (names, phases, conditions, reason)
  }

  /// All calls that are ever allowed; any other is denied.
  ///
  /// Descriptors are not compared, because only this process or QEMU can have made them.
  static let all: [AllowedCall] = [
    AllowedCall(
      "accept4", in: [.waiting, .offering], for: "taking QEMU's connection, and those to the control socket"),
    AllowedCall(
      "getsockopt", in: [.waiting, .offering],
      onlyIf: [CL_SO_PEERCRED, CL_SO_PEERGROUPS].map {
        [.argument(1, is: CL_SOL_SOCKET), .argument(2, is: $0)]
      },
      for: "who is at the other end of these"),
    AllowedCall(
      "pipe2", in: [.waiting, .offering],
      for: "what an importer of a lent buffer holds as long as it uses the buffer"),
    AllowedCall(
      "fstatfs", in: [.waiting, .offering], for: "which kind of file a process offers to the guest"),
    AllowedCall(
      "dup3", in: [.waiting, .offering],
      for: "who made a dma-buf: what fdinfo says of a number that it gets for a moment"),
    AllowedCall("unlink", "unlinkat", in: [.waiting], for: "removing our socket file"),
    AllowedCall(
      "seccomp", in: [.waiting], onlyIf: [[.argument(0, is: CL_SECCOMP_SET_MODE_FILTER)]],
      for: "entering the next phase: a filter can only take away"),

    AllowedCall("epoll_wait", "epoll_pwait", for: "waiting in the event loop"),
    AllowedCall("epoll_ctl", for: "adding and removing its sources"),
    AllowedCall(
      "poll", "ppoll", onlyIf: [[.argument(1, is: 1)]], for: "whether devices still read a dma-buf"),
    AllowedCall("read", for: "eventfds, timers, signals, and what the card reports"),
    AllowedCall("write", for: "eventfds, the log, and the trace of what a guest reports"),
    AllowedCall("writev", for: "the last words of the Swift runtime and of the C library"),
    AllowedCall("timerfd_settime", for: "arming timers"),
    AllowedCall("clock_gettime", for: "the time, where the vDSO cannot tell it"),
    AllowedCall("close", for: "what is not needed any more"),

    AllowedCall("recvmsg", for: "messages, with descriptors"),
    AllowedCall("sendmsg", for: "answers and calls, with descriptors"),
    AllowedCall(
      "fcntl",
      onlyIf: [
        [.argument(1, is: F_GETFL)], [.argument(1, is: F_SETFL)], [.argument(1, is: CU_F_GET_SEALS)],
        [.argument(1, is: CU_F_ADD_SEALS)], [.argument(1, is: F_DUPFD_CLOEXEC)],
      ],
      for: "making what QEMU sends nonblocking; the seals of memfds; a dma-buf's second descriptor, for QEMU"),
    AllowedCall("fstat", for: "the size and the kind of what QEMU sends"),
    AllowedCall(
      "newfstatat", onlyIf: [[.argument(3, is: CL_AT_EMPTY_PATH)]], for: "the same: the C library's fstat"),
    AllowedCall("lseek", for: "the size of a dma-buf"),

    AllowedCall("memfd_create", for: "memory to copy pictures into"),
    AllowedCall("ftruncate", for: "the size of that memory, and of the statistics"),
    AllowedCall("pread64", for: "udmabuf's limits, read anew"),
    AllowedCall("pwrite64", for: "the statistics"),
    AllowedCall(
      "mmap", onlyIf: [[.argument(2, under: PROT_EXEC, is: 0)]], for: "guest memory, dma-bufs, and malloc"),
    AllowedCall("mprotect", onlyIf: [[.argument(2, under: PROT_EXEC, is: 0)]], for: "malloc"),
    AllowedCall("munmap", for: "guest memory that is gone, and malloc"),
    AllowedCall("mremap", for: "malloc"),
    AllowedCall("brk", for: "malloc"),
    AllowedCall("madvise", for: "keeping guest memory out of dumps, and malloc"),

    AllowedCall(
      "ioctl",
      onlyIf: [
        CU_UDMABUF_CREATE, CU_UDMABUF_CREATE_LIST, CU_DMA_BUF_IOCTL_SYNC, CU_DMA_BUF_SET_NAME,
        CU_DMA_BUF_EXPORT_SYNC_FILE, CU_DMA_BUF_IMPORT_SYNC_FILE,
      ].map { [.argument(1, is: $0)] } + drm.map { [.argument(1, under: 0xffff, is: 0x6400 | $0.number)] },
      for: "udmabuf, dma-bufs, and the card"),

    AllowedCall("futex", for: "locks and one-time set-up in the Swift runtime"),
    AllowedCall("getrandom", for: "the seed of Swift's hash tables"),
    AllowedCall("sysinfo", for: "the C library's qsort, by which libdrm sorts a long commit"),
    AllowedCall("restart_syscall", for: "the kernel's own, after SIGSTOP and SIGCONT"),
    AllowedCall("gettid", for: "Swift's locks, and abort"),
    AllowedCall("getpid", for: "abort"),
    AllowedCall("rt_sigprocmask", for: "abort"),
    AllowedCall(
      "tgkill", onlyIf: [[.argument(0, is: getpid()), .argument(2, is: SIGABRT)]],
      for: "abort: ending with the reason, not with a denial"),
    AllowedCall("exit_group", for: "the end"),
  ]

  /// The calls of DRM that `KMS` makes, most of them through libdrm, by their number under DRM's letter, as in the kernel.
  /// Left out are calls that open the buffers and framebuffers of other programs (GEM_OPEN, GETFB, GETFB2), name ours for
  /// them (GEM_FLINK), or lend the screens (leases).
  private static let drm: [(number: UInt32, name: StaticString)] = [
    (0x00, "VERSION"), (0x09, "GEM_CLOSE"), (0x0c, "GET_CAP"), (0x0d, "SET_CLIENT_CAP"),
    // Whether this process is master.
    (0x11, "AUTH_MAGIC"), (0x1e, "SET_MASTER"), (0x1f, "DROP_MASTER"),
    (0x2d, "PRIME_HANDLE_TO_FD"), (0x2e, "PRIME_FD_TO_HANDLE"),
    (0xa0, "MODE_GETRESOURCES"), (0xa1, "MODE_GETCRTC"), (0xa2, "MODE_SETCRTC"), (0xa3, "MODE_CURSOR"),
    (0xa6, "MODE_GETENCODER"), (0xa7, "MODE_GETCONNECTOR"), (0xaa, "MODE_GETPROPERTY"),
    (0xac, "MODE_GETPROPBLOB"), (0xaf, "MODE_RMFB"), (0xb0, "MODE_PAGE_FLIP"), (0xb1, "MODE_DIRTYFB"),
    (0xb2, "MODE_CREATE_DUMB"), (0xb3, "MODE_MAP_DUMB"), (0xb5, "MODE_GETPLANERESOURCES"),
    (0xb6, "MODE_GETPLANE"), (0xb8, "MODE_ADDFB2"), (0xb9, "MODE_OBJ_GETPROPERTIES"),
    (0xbb, "MODE_CURSOR2"), (0xbc, "MODE_ATOMIC"), (0xbd, "MODE_CREATEPROPBLOB"),
    (0xbe, "MODE_DESTROYPROPBLOB"),
  ]
}
