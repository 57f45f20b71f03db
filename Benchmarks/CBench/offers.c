#define _GNU_SOURCE
#include "CBench.h"

#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST = 4096 };

static struct cb_offer_sizes sizes;
static int control[2], port[2], channel[2]; // The second ends are the server's.
static int kick, call;

static int send_with(int socket, size_t size, int passed) {
  char message[LONGEST] = {0};
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
  } data = {0};
  struct iovec vector = {.iov_base = message, .iov_len = size};
  struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
  if (passed >= 0) {
    header.msg_control = &data;
    header.msg_controllen = sizeof data;
    struct cmsghdr *item = CMSG_FIRSTHDR(&header);
    *item = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(item), &passed, sizeof passed);
  }
  return sendmsg(socket, &header, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

/// - Returns: what was passed, or -1 if nothing was; -2 if not all came.
static int receive(int socket, size_t size) {
  char message[LONGEST];
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
  } data = {0};
  struct iovec vector = {.iov_base = message, .iov_len = size};
  struct msghdr header = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &data, .msg_controllen = sizeof data};
  if (recvmsg(socket, &header, MSG_CMSG_CLOEXEC) != (ssize_t)size)
    return -2;
  struct cmsghdr *item = CMSG_FIRSTHDR(&header);
  int passed = -1;
  if (item)
    memcpy(&passed, CMSG_DATA(item), sizeof passed);
  return passed;
}

static int serve(void) {
  uint64_t counter, one = 1;
  struct stat status;
  int memory = receive(control[1], sizes.asked);
  if (memory < 0 || fstat(memory, &status) != 0)
    return -1;
  void *start = mmap(NULL, sizes.memory, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (start == MAP_FAILED || send_with(control[1], sizes.answered, -1) != 0 ||
      send_with(port[1], sizes.told, -1) != 0 || read(kick, &counter, 8) != 8 ||
      send_with(channel[1], sizes.mapped, memory) != 0 || receive(channel[1], sizes.acknowledged) != -1 ||
      write(call, &one, 8) != 8)
    return -1;
  munmap(start, sizes.memory);
  close(memory);
  return 0;
}

pid_t cb_offer_start(struct cb_offer_sizes wanted) {
  sizes = wanted;
  int type = SOCK_STREAM | SOCK_CLOEXEC;
  if (sizes.asked > LONGEST || sizes.answered > LONGEST || sizes.told > LONGEST ||
      socketpair(AF_UNIX, type, 0, control) != 0 || socketpair(AF_UNIX, type, 0, port) != 0 ||
      socketpair(AF_UNIX, type, 0, channel) != 0 || (kick = eventfd(0, EFD_CLOEXEC)) < 0 ||
      (call = eventfd(0, EFD_CLOEXEC)) < 0)
    return -1;
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (serve() == 0) {
    }
    _exit(1);
  }
  close(control[1]);
  close(port[1]);
  close(channel[1]);
  return pid;
}

int cb_offer_life(int memory) {
  uint64_t counter, one = 1;
  if (send_with(control[0], sizes.asked, memory) != 0 || receive(control[0], sizes.answered) != -1 ||
      receive(port[0], sizes.told) != -1 || write(kick, &one, 8) != 8)
    return -1;
  int passed = receive(channel[0], sizes.mapped);
  if (passed < 0)
    return -1;
  close(passed);
  return send_with(channel[0], sizes.acknowledged, -1) == 0 && read(call, &counter, 8) == 8 ? 0 : -1;
}
