#define _GNU_SOURCE
#include "CLinux.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/netlink.h>

static_assert(EPOLLIN == 0x1 && EPOLLOUT == 0x4 && EPOLLERR == 0x8, "epoll events");
static_assert(EPOLLHUP == 0x10 && EPOLLRDHUP == 0x2000 && EPOLLET == 0x80000000u, "epoll events");

static_assert(CL_AT_EMPTY_PATH == AT_EMPTY_PATH, "flags");
static_assert(CL_SOL_SOCKET == SOL_SOCKET && CL_SO_PEERCRED == SO_PEERCRED, "socket options");
static_assert(CL_SO_PEERGROUPS == SO_PEERGROUPS, "socket options");

int cl_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC | O_NONBLOCK); }
int cl_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }
int cl_timerfd(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); }

int cl_clock_watch(void) { return timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK); }

int cl_clock_watch_arm(int fd) {
  // Far in the future, but below the kernel's longest time.
  struct itimerspec time = {.it_value = {.tv_sec = INT64_C(1) << 33}};
  return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &time, NULL);
}

int cl_timerfd_arm(int fd, int64_t nanoseconds) {
  struct itimerspec time = {.it_value = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000}};
  return timerfd_settime(fd, 0, &time, NULL);
}

int cl_signalfd(const int *signals, size_t count) {
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < count; i++)
    sigaddset(&set, signals[i]);
  if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
    return -1;
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int cl_signalfd_read(int fd) {
  struct signalfd_siginfo info;
  ssize_t size = read(fd, &info, sizeof info);
  return size == sizeof info ? (int)info.ssi_signo : -1;
}

int cl_ignore_signal(int number) {
  struct sigaction action = {.sa_handler = SIG_IGN};
  return sigaction(number, &action, NULL);
}

static const char *bus_error_line;
static size_t bus_error_length;

static void exit_on_bus_error(int number) {
  (void)number;
  ssize_t written = write(2, bus_error_line, bus_error_length);
  (void)written;
  _exit(1);
}

int cl_exit_on_bus_error(const char *line, size_t length) {
  struct sigaction action = {.sa_handler = exit_on_bus_error};
  bus_error_line = line;
  bus_error_length = length;
  return sigaction(SIGBUS, &action, NULL);
}

int64_t cl_monotonic_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int cl_raise_descriptor_limit(uint64_t *reached) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
    return -1;
  limit.rlim_cur = limit.rlim_max;
  *reached = limit.rlim_cur;
  return setrlimit(RLIMIT_NOFILE, &limit);
}

int cl_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

static int epoll_control(int epoll, int operation, int fd, uint32_t events, uint64_t token) {
  struct epoll_event event = {.events = events, .data.u64 = token};
  return epoll_ctl(epoll, operation, fd, &event);
}
int cl_epoll_add(int epoll, int fd, uint32_t events, uint64_t token) {
  return epoll_control(epoll, EPOLL_CTL_ADD, fd, events, token);
}
int cl_epoll_modify(int epoll, int fd, uint32_t events, uint64_t token) {
  return epoll_control(epoll, EPOLL_CTL_MOD, fd, events, token);
}
int cl_epoll_remove(int epoll, int fd) { return epoll_control(epoll, EPOLL_CTL_DEL, fd, 0, 0); }

int cl_epoll_wait(int epoll, struct cl_epoll_event *events, int capacity, int milliseconds) {
  struct epoll_event ready[64];
  int count = epoll_wait(epoll, ready, capacity < 64 ? capacity : 64, milliseconds);
  for (int i = 0; i < count; i++)
    events[i] = (struct cl_epoll_event){.events = ready[i].events, .token = ready[i].data.u64};
  return count;
}

static int unix_address(struct sockaddr_un *address, const char *path, size_t length) {
  if (length >= sizeof address->sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, length);
  return 0;
}

// The kernel gives the file the socket's own mode, without the umask's bits.
static int bind_with_mode(int fd, const struct sockaddr_un *address, int mode) {
  if (mode < 0)
    return bind(fd, (const struct sockaddr *)address, sizeof *address);
  if (fchmod(fd, (mode_t)mode) < 0)
    return -1;
  mode_t mask = umask(0);
  int result = bind(fd, (const struct sockaddr *)address, sizeof *address);
  umask(mask);
  return result;
}

int cl_unix_listen(const char *path, size_t length, int mode) {
  struct sockaddr_un address;
  if (unix_address(&address, path, length) < 0)
    return -1;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  if (bind_with_mode(fd, &address, mode) == 0 && listen(fd, 4) == 0)
    return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

static int unix_connect(const char *path, size_t length, int type, unsigned milliseconds) {
  struct sockaddr_un address;
  if (unix_address(&address, path, length) < 0)
    return -1;
  int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  // Without a limit this would wait for a listener that never accepts, as long as its queue is full.
  struct timeval patience = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000}, none = {0};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    return fd;
  }
  int saved = errno == EAGAIN ? ETIMEDOUT : errno;
  close(fd);
  errno = saved;
  return -1;
}
int cl_unix_connect(const char *path, size_t length, unsigned milliseconds) {
  return unix_connect(path, length, SOCK_STREAM, milliseconds);
}
int cl_unix_connect_datagram(const char *path, size_t length) {
  return unix_connect(path, length, SOCK_DGRAM, 0);
}

int cl_unix_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

union internet_address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
};

int cl_loopback_listen(int is_ipv6, uint16_t port) {
  union internet_address address = {0};
  socklen_t size = is_ipv6 ? sizeof address.v6 : sizeof address.v4;
  if (is_ipv6)
    address.v6 = (struct sockaddr_in6){AF_INET6, htons(port), 0, IN6ADDR_LOOPBACK_INIT, 0};
  else
    address.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  // Lingering old connections must not keep the port.
  int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(fd, &address.any, size) == 0 && listen(fd, 16) == 0)
    return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

int cl_local_port(int fd) {
  union internet_address address = {0};
  socklen_t size = sizeof address;
  if (getsockname(fd, &address.any, &size) < 0)
    return -1;
  return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

int cl_terminal_size(int fd, uint16_t *rows, uint16_t *columns) {
  struct winsize size = {0};
  int result = ioctl(fd, TIOCGWINSZ, &size);
  *rows = size.ws_row;
  *columns = size.ws_col;
  return result;
}

int cl_open_name(const char *path) { return open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC); }
int cl_give_to_group(int fd, uint32_t group) { return fchownat(fd, "", (uid_t)-1, group, AT_EMPTY_PATH); }
int cl_peer_credentials(int fd, int32_t *pid, uint32_t *uid, uint32_t *gid) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  int result = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
  if (result == 0) {
    *pid = peer.pid;
    *uid = peer.uid;
    *gid = peer.gid;
  }
  return result;
}
int cl_peer_groups(int fd, uint32_t *groups, size_t *count) {
  socklen_t size = *count * sizeof *groups;
  int result = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size);
  *count = size / sizeof *groups;
  return result;
}
int cl_unix_pair(int fds[2]) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds); }

pid_t cl_unix_peer(int fd) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? -1 : peer.pid;
}

int cl_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
int cl_pidfd_getfd(int pidfd, int fd) { return (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0); }

int cl_set_close_on_exec(int fd, int closes) { return fcntl(fd, F_SETFD, closes ? FD_CLOEXEC : 0); }

enum { CL_MAX_DESCRIPTORS = 253 };

ssize_t cl_send(int fd, const void *bytes, size_t length, const int *fds, size_t count) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(CL_MAX_DESCRIPTORS * sizeof(int))];
  } control;
  struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  if (count > CL_MAX_DESCRIPTORS) {
    errno = EINVAL;
    return -1;
  }
  if (count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  return sendmsg(fd, &message, MSG_NOSIGNAL);
}

ssize_t cl_receive(int fd, void *bytes, size_t length, int *fds, size_t capacity, size_t *count, int *lost) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(CL_MAX_DESCRIPTORS * sizeof(int))];
  } control;
  struct iovec vector = {.iov_base = bytes, .iov_len = length};
  struct msghdr message = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  *count = 0;
  *lost = 0;
  ssize_t size = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (size < 0)
    return size;
  *lost = (message.msg_flags & MSG_CTRUNC) != 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
      continue;
    size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < received; i++) {
      int one;
      memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof one);
      if (*count < capacity) {
        fds[(*count)++] = one;
      } else {
        close(one);
        *lost = 1;
      }
    }
  }
  return size;
}

enum { CL_UEVENTS_OF_KERNEL = 1 };

int cl_uevent_socket(void) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = CL_UEVENTS_OF_KERNEL};
  int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
  if (fd < 0)
    return -1;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
    return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

ssize_t cl_uevent_receive(int fd, void *bytes, size_t length, int *genuine) {
  struct sockaddr_nl sender = {.nl_pid = UINT32_MAX};
  struct iovec vector = {.iov_base = bytes, .iov_len = length};
  struct msghdr message = {
      .msg_name = &sender, .msg_namelen = sizeof sender, .msg_iov = &vector, .msg_iovlen = 1};
  ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT);
  // Any process could send to this socket's address; only the kernel sends from port 0.
  *genuine = message.msg_namelen == sizeof sender && sender.nl_pid == 0 &&
             sender.nl_groups == CL_UEVENTS_OF_KERNEL && (message.msg_flags & MSG_TRUNC) == 0;
  return size;
}
