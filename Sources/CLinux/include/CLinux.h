// System calls that Swift cannot reach through Glibc: variadic ones, macros, and structures with a
// flexible tail. One call each, no logic; results and errno are the call's own.
#ifndef CLINUX_H
#define CLINUX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Values that the uapi headers define as macros; shims.c asserts each one.

static const uint32_t CL_EPOLLIN = 0x1;
static const uint32_t CL_EPOLLOUT = 0x4;
static const uint32_t CL_EPOLLERR = 0x8;
static const uint32_t CL_EPOLLHUP = 0x10;
static const uint32_t CL_EPOLLRDHUP = 0x2000;
static const uint32_t CL_EPOLLET = 0x80000000;

// Constants that a filter compares arguments with.
static const uint32_t CL_AT_EMPTY_PATH = 0x1000;
static const uint32_t CL_SOL_SOCKET = 1;
static const uint32_t CL_SO_PEERCRED = 17;
static const uint32_t CL_SO_PEERGROUPS = 59;
static const uint32_t CL_SECCOMP_SET_MODE_FILTER = 1;

struct cl_epoll_event {
  uint32_t events;
  uint64_t token;
};

int cl_eventfd(void);
// The end for reading, and the end for writing; both nonblocking.
int cl_pipe(int ends[2]);
int cl_timerfd(void);
// Reading fails with ECANCELED if the clock was set, or the system slept, since the timer was armed.
int cl_clock_watch(void);
int cl_clock_watch_arm(int fd);
// One shot after `nanoseconds` of monotonic time; 0 disarms.
int cl_timerfd_arm(int fd, int64_t nanoseconds);
// Blocks the given signals in this thread and returns a descriptor that reads them.
int cl_signalfd(const int *signals, size_t count);
// The number of the next pending signal, or -1 with EAGAIN.
int cl_signalfd_read(int fd);
int cl_ignore_signal(int number);
// On SIGBUS writes `line`, which must live as long as the process, to standard error and exits with status 1.
int cl_exit_on_bus_error(const char *line, size_t length);
int64_t cl_monotonic_nanoseconds(void);
// Afterwards `reached` is the limit.
int cl_raise_descriptor_limit(uint64_t *reached);

int cl_epoll_create(void);
int cl_epoll_add(int epoll, int fd, uint32_t events, uint64_t token);
int cl_epoll_modify(int epoll, int fd, uint32_t events, uint64_t token);
int cl_epoll_remove(int epoll, int fd);
int cl_epoll_wait(int epoll, struct cl_epoll_event *events, int capacity, int milliseconds);

// The file has this mode from its first moment on; below 0 the umask decides.
int cl_unix_listen(const char *path, size_t length, int mode);
int cl_unix_connect(const char *path, size_t length, unsigned milliseconds);
// Never succeeds if a stream socket is bound there (EPROTOTYPE), whose owner does not notice.
int cl_unix_connect_datagram(const char *path, size_t length);
int cl_unix_accept(int fd);
// Listens on 127.0.0.1 or ::1, and on no other address; nonblocking. The kernel chooses a port for 0.
int cl_loopback_listen(int is_ipv6, uint16_t port);
// The port that an IP socket is bound to, or -1.
int cl_local_port(int fd);
// In characters.
int cl_terminal_size(int fd, uint16_t *rows, uint16_t *columns);
// Opens the file of this name itself, even a link or a socket, but not for reading or writing (O_PATH).
int cl_open_name(const char *path);
int cl_give_to_group(int fd, uint32_t group);
// Who connected, or listens there (SO_PEERCRED).
int cl_peer_credentials(int fd, int32_t *pid, uint32_t *uid, uint32_t *gid);
// All groups of that process (SO_PEERGROUPS). `count` is the capacity, and afterwards their number. ERANGE if the
// capacity is too small.
int cl_peer_groups(int fd, uint32_t *groups, size_t *count);
int cl_unix_pair(int fds[2]);
// The process that made the socket at the other end, or -1.
pid_t cl_unix_peer(int fd);
// Sends with `count` descriptors as SCM_RIGHTS, without SIGPIPE.
ssize_t cl_send(int fd, const void *bytes, size_t length, const int *fds, size_t count);
// Receives without waiting; stores up to `capacity` descriptors (close-on-exec). `lost` says that the kernel dropped
// descriptors, because there was no room or no free descriptor number.
ssize_t cl_receive(int fd, void *bytes, size_t length, int *fds, size_t capacity, size_t *count, int *lost);

int cl_pidfd_open(pid_t pid);
int cl_pidfd_getfd(int pidfd, int fd);
int cl_set_close_on_exec(int fd, int closes);

// A nonblocking socket that reads what the kernel itself announces about devices (uevents).
int cl_uevent_socket(void);
// Receives one announcement; `genuine` says that the kernel sent it to everybody, and that all of it fit.
ssize_t cl_uevent_receive(int fd, void *bytes, size_t length, int *genuine);

// Privileges that a process gives up for good (sandbox.c).
int cl_no_new_privileges(void);
int cl_no_core_file(void);
int cl_not_dumpable(void);
// Takes one capability out of the bounding set; EINVAL behind the last one that the kernel knows.
int cl_drop_bounding_capability(unsigned long capability);
// Empties this thread's effective, permitted, inheritable and ambient sets.
int cl_drop_capabilities(void);
int cl_default_action(int signal);

// The line for a system call that seccomp traps: `before`, its name, its number, `after`. All of them must live as long
// as the process.
struct cl_denial {
  const char *before;
  const char *after;
  // Names by number, null for none, for the architecture `architecture` (AUDIT_ARCH_*).
  const char *const *names;
  size_t count;
  uint32_t architecture;
};
// On SIGSYS writes the line to standard error and exits with status 1.
int cl_exit_on_denied_call(const struct cl_denial *denial);

// Opens libselinux at its first use (selinux.c). 1 if it is there; otherwise none of the calls below may be made.
int cl_selinux_load(void);
int cl_selinux_enabled(void);
int cl_selinux_enforcing(void);
// The file with the labels of virtual machines' processes.
const char *cl_selinux_domain_contexts(void);
// A file's label, and the label that the policy, or a file of contexts, has for that path and mode. Null if there is none;
// otherwise the caller frees it.
char *cl_selinux_label(const char *path);
char *cl_selinux_expected_label(const char *path, uint32_t mode, const char *contexts);
void cl_selinux_free(char *label);
// 1 if the loaded policy allows the access, or does not enforce it for this subject; 0 if not; -1 if it does not know it.
int cl_selinux_allows(const char *subject, const char *object, const char *class, const char *permission);

#endif
