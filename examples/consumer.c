// A consumer of the frames that vhost-user-udmabuf offers on its control socket, without any library: it waits for
// each new picture, looks at it through the descriptor that it gets, and prints a line about it.
//
//   cc -O2 -o consumer consumer.c && ./consumer CONTROL-SOCKET [FRAMES]
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/dma-buf.h>

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
    die(path);
  return fd;
}

// Varlink: a message is a JSON object with a NUL behind it.
static void call(int fd, const char *message) {
  if (write(fd, message, strlen(message) + 1) != (ssize_t)strlen(message) + 1)
    die("call");
}

// Reads one message, byte by byte for the sake of brevity, and the descriptor that comes with it.
static void reply(int fd, char *message, size_t capacity, int *descriptor) {
  for (size_t length = 0; length < capacity; length++) {
    union {
      struct cmsghdr align;
      char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = message + length, .iov_len = 1};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = sizeof control};
    if (recvmsg(fd, &header, MSG_CMSG_CLOEXEC) <= 0)
      die("the helper is gone");
    struct cmsghdr *passed = CMSG_FIRSTHDR(&header);
    if (passed && passed->cmsg_type == SCM_RIGHTS && descriptor)
      memcpy(descriptor, CMSG_DATA(passed), sizeof(int));
    if (message[length] == 0)
      return;
  }
  exit((fputs("a message is too long\n", stderr), 1));
}

// The number behind the first field of that name. A real program has a JSON library.
static long number(const char *message, const char *field) {
  char key[64];
  snprintf(key, sizeof key, "\"%s\":", field);
  const char *place = strstr(message, key);
  return place ? strtol(place + strlen(key), NULL, 10) : 0;
}

static uint32_t fnv1a(uint32_t hash, const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; i++)
    hash = (hash ^ bytes[i]) * 16777619;
  return hash;
}

int main(int count, char **words) {
  if (count < 2)
    return fputs("usage: consumer CONTROL-SOCKET [FRAMES]\n", stderr), 64;
  static char event[1 << 16], message[1 << 16];
  int events = connect_to(words[1]), frames = connect_to(words[1]);
  call(events, "{\"method\":\"io.udmabridge.Display.Watch\",\"more\":true}");
  for (int left = count > 2 ? atoi(words[2]) : 1; left > 0;) {
    reply(events, event, sizeof event, NULL);
    if (strstr(event, "\"event\":\"end\""))
      return 0;
    if (!strstr(event, "\"event\":\"frame\""))
      continue;
    int fd = -1;
    call(frames, "{\"method\":\"io.udmabridge.Display.GetFrame\",\"parameters\":{\"hold\":true}}");
    reply(frames, message, sizeof message, &fd);
    if (fd < 0)
      continue; // the scanout was switched off meanwhile
    size_t size = number(message, "size"), stride = number(message, "stride"), offset = number(message, "offset");
    long width = number(message, "width"), height = number(message, "height"), buffer = number(message, "buffer");
    uint8_t *pixels = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (pixels == MAP_FAILED)
      die("mmap");
    struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
    ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync); // a memfd has none, and needs none
    uint32_t hash = 2166136261u;
    for (long row = 0; row < height; row++)
      hash = fnv1a(hash, pixels + offset + row * stride, width * 4);
    sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
    ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
    munmap(pixels, size);
    close(fd);
    printf("frame %ld: buffer %ld, %ldx%ld, fnv1a %08x\n", number(message, "sequence"), buffer, width, height, hash);
    fflush(stdout);
    snprintf(message, sizeof message,
             "{\"method\":\"io.udmabridge.Display.Release\",\"parameters\":{\"buffer\":%ld}}", buffer);
    call(frames, message);
    reply(frames, message, sizeof message, NULL);
    left--;
  }
  return 0;
}
