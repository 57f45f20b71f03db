#define _GNU_SOURCE
#include "CBench.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
  struct cmsghdr align;
  char space[CMSG_SPACE(sizeof(int))];
};

pid_t cb_tell(int kick, int socket, int passed) {
  pid_t pid = fork();
  if (pid != 0)
    return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  char message[512] = {0};
  uint64_t counter;
  while (read(kick, &counter, 8) == 8) {
    union control control = {0};
    struct iovec vector = {.iov_base = message, .iov_len = sizeof message};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = sizeof control};
    struct cmsghdr *item = CMSG_FIRSTHDR(&header);
    *item = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(item), &passed, sizeof passed);
    if (sendmsg(socket, &header, MSG_NOSIGNAL) < 0)
      break;
  }
  _exit(1);
}

int cb_ask(int kick, int socket) {
  uint64_t one = 1;
  static char message[1 << 14];
  union control control;
  struct iovec vector = {.iov_base = message, .iov_len = sizeof message};
  struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                          .msg_controllen = sizeof control};
  if (write(kick, &one, 8) != 8 || cb_wait_readable(socket, 2000) != 1 || recvmsg(socket, &header, MSG_CMSG_CLOEXEC) <= 0)
    return -1;
  struct cmsghdr *item = CMSG_FIRSTHDR(&header);
  if (item && item->cmsg_type == SCM_RIGHTS) {
    int passed;
    memcpy(&passed, CMSG_DATA(item), sizeof passed);
    close(passed);
  }
  return 0;
}

ssize_t cb_drain(int socket) {
  static char message[1 << 14];
  ssize_t all = 0;
  while (1) {
    ssize_t count = recv(socket, message, sizeof message, MSG_DONTWAIT);
    if (count > 0)
      all += count;
    else
      return count < 0 && errno == EAGAIN ? all : -1;
  }
}

static int pass(int near, int far, size_t asked, size_t answered, const int *passed, size_t copies, int loop) {
  static char message[1 << 14];
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(8 * sizeof(int))];
  } control = {0};
  if (asked > sizeof message || answered > sizeof message || copies > 8)
    return -1;
  struct epoll_event ready;
  if (send(near, message, asked, MSG_NOSIGNAL) != (ssize_t)asked)
    return -1;
  if (loop >= 0 && epoll_wait(loop, &ready, 1, 0) != 1)
    return -1;
  if (recv(far, message, sizeof message, 0) != (ssize_t)asked)
    return -1;
  struct iovec vector = {.iov_base = message, .iov_len = answered};
  struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
  if (copies) {
    header.msg_control = &control;
    header.msg_controllen = CMSG_SPACE(copies * sizeof(int));
    struct cmsghdr *item = CMSG_FIRSTHDR(&header);
    *item = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(copies * sizeof(int))};
    memcpy(CMSG_DATA(item), passed, copies * sizeof(int));
  }
  if (sendmsg(far, &header, MSG_NOSIGNAL) != (ssize_t)answered)
    return -1;
  if (loop >= 0 && epoll_wait(loop, &ready, 1, 0) != 0)
    return -1;
  vector.iov_len = sizeof message;
  header = (struct msghdr){
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (recvmsg(near, &header, MSG_CMSG_CLOEXEC) != (ssize_t)answered)
    return -1;
  struct cmsghdr *item = CMSG_FIRSTHDR(&header);
  size_t arrived = item && item->cmsg_type == SCM_RIGHTS ? (item->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
  for (size_t i = 0; i < arrived; i++) {
    int fd;
    memcpy(&fd, CMSG_DATA(item) + i * sizeof(int), sizeof fd);
    close(fd);
  }
  return arrived == copies ? 0 : -1;
}

int cb_pass(int near, int far, size_t asked, size_t answered, int passed, size_t copies) {
  int all[8];
  for (size_t i = 0; i < 8; i++)
    all[i] = passed;
  return pass(near, far, asked, answered, all, copies, -1);
}

int cb_answer(int loop, int near, int far, size_t asked, size_t answered, int passed, int *token) {
  struct epoll_event end = {.events = 0};
  if (*token >= 0) { // What was imported before is over.
    int read = *token;
    *token = -1;
    int status = epoll_ctl(loop, EPOLL_CTL_DEL, read, NULL);
    close(read);
    if (status != 0)
      return -1;
  }
  if (passed < 0)
    return pass(near, far, asked, answered, NULL, 0, loop);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return -1;
  *token = ends[0];
  int copies[2] = {fcntl(passed, F_DUPFD_CLOEXEC, 0), ends[1]};
  int status = copies[0] < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, ends[0], &end) != 0
                   ? -1
                   : pass(near, far, asked, answered, copies, 2, loop);
  close(copies[0]);
  close(copies[1]);
  return status;
}

int cb_watch(int far) {
  static int loop = -1;
  struct epoll_event input = {.events = EPOLLIN};
  if (loop < 0 && (loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
    return -1;
  return epoll_ctl(loop, EPOLL_CTL_ADD, far, &input) == 0 ? loop : -1;
}

bool cb_contains(const void *bytes, size_t size, const char *text) {
  return memmem(bytes, size, text, strlen(text)) != NULL;
}

size_t cb_heap(void) {
  struct mallinfo2 now = mallinfo2();
  return now.uordblks + now.hblkhd;
}

int64_t cb_minor_faults(pid_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0)
    close(fd);
  if (count <= 0)
    return -1;
  text[count] = 0;
  // Behind the name, which may hold anything: state, seven numbers, and this one.
  unsigned long faults;
  char *end = strrchr(text, ')');
  return end && sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %lu", &faults) == 1 ? (int64_t)faults : -1;
}

// In place of the C library's own, which they call: whatever in this process asks for memory is counted.
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static uint64_t allocations;

uint64_t cb_allocations(void) { return __atomic_load_n(&allocations, __ATOMIC_RELAXED); }

void *malloc(size_t size) {
  __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
  return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
  return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
  __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
  return __libc_realloc(memory, size);
}
