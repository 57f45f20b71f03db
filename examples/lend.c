// Lends a buffer of a dma-heap to the host, without any library: it makes the buffer, writes a picture into it, passes it to the
// guest's agent, and holds it until standard input ends. Then it takes the buffer back.
//
//   cc -O2 -o lend lend.c && ./lend [SOCKET]        in a guest where udmabridge-guest serves; as a user who may open the heap
#include <fcntl.h>
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
#include <linux/dma-heap.h>

enum { WIDTH = 640, HEIGHT = 480, SIZE = WIDTH * HEIGHT * 4, XR24 = 0x34325258 };

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int make_buffer(void) {
  struct dma_heap_allocation_data wanted = {.len = SIZE, .fd_flags = O_RDWR | O_CLOEXEC};
  int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);
  if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &wanted) < 0)
    die("/dev/dma_heap/system");
  close(heap);
  return (int)wanted.fd;
}

static void draw(int buffer) {
  uint32_t *pixels = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, buffer, 0);
  if (pixels == MAP_FAILED)
    die("mmap");
  struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE};
  ioctl(buffer, DMA_BUF_IOCTL_SYNC, &sync);
  for (uint32_t y = 0; y < HEIGHT; y++)
    for (uint32_t x = 0; x < WIDTH; x++)
      pixels[y * WIDTH + x] = (x & 255) << 16 | (y & 255) << 8 | ((x ^ y) & 255);
  sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE;
  ioctl(buffer, DMA_BUF_IOCTL_SYNC, &sync);
  munmap(pixels, SIZE);
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
    die(path);
  return fd;
}

// Varlink: a message is a JSON object with a NUL behind it. A descriptor goes with its first byte.
static void call(int fd, const char *message, int buffer) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec vector = {.iov_base = (void *)message, .iov_len = strlen(message) + 1};
  struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
  if (buffer >= 0) {
    header.msg_control = &control;
    header.msg_controllen = sizeof control;
    struct cmsghdr *passed = CMSG_FIRSTHDR(&header);
    *passed = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(passed), &buffer, sizeof buffer);
  }
  if (sendmsg(fd, &header, MSG_NOSIGNAL) != (ssize_t)vector.iov_len)
    die("call");
}

// Reads one message, byte by byte for the sake of brevity.
static void reply(int fd, char *message, size_t capacity) {
  for (size_t length = 0; length < capacity; length++) {
    if (read(fd, message + length, 1) != 1)
      exit((fputs("the agent is gone\n", stderr), 1));
    if (message[length] == 0) {
      if (strstr(message, "\"error\":"))
        exit((fprintf(stderr, "%s\n", message), 1));
      return;
    }
  }
  exit((fputs("a message is too long\n", stderr), 1));
}

int main(int count, char **words) {
  const char *path = count > 1 ? words[1] : "/run/udmabridge-guest/lender";
  static char message[1 << 16], event[1 << 16], id[33];
  int buffer = make_buffer();
  draw(buffer);
  // The buffer is lent for as long as this connection lasts; events come on one of their own.
  int agent = connect_to(path), events = connect_to(path);
  call(events, "{\"method\":\"io.udmabridge.Lender.Watch\",\"more\":true}", -1);
  reply(events, event, sizeof event);
  snprintf(message, sizeof message,
           "{\"method\":\"io.udmabridge.Lender.Lend\",\"parameters\":{\"fileDescriptor\":0,\"use\":\"read\",\"metadata\":{"
           "\"image\":{\"width\":%d,\"height\":%d,\"fourcc\":%d,\"stride\":%d},\"values\":{\"name\":\"gradient\"}}}}",
           WIDTH, HEIGHT, XR24, WIDTH * 4);
  call(agent, message, buffer);
  reply(agent, message, sizeof message);
  // The id has 32 digits. A real program has a JSON library.
  const char *place = strstr(message, "\"buffer\":\"");
  if (!place || sscanf(place, "\"buffer\":\"%32[0-9a-f]", id) != 1)
    return fputs("the reply names no buffer\n", stderr), 1;
  printf("lent %s\n", id);
  fflush(stdout);
  while (getchar() != EOF)
    ;
  snprintf(message, sizeof message, "{\"method\":\"io.udmabridge.Lender.Return\",\"parameters\":{\"buffer\":\"%s\"}}", id);
  call(agent, message, -1);
  reply(agent, message, sizeof message);
  // The host may read until it says so.
  do
    reply(events, event, sizeof event);
  while (!strstr(event, id) || !(strstr(event, "\"event\":\"returned\"") || strstr(event, "\"event\":\"revoked\"")));
  printf("%s %s\n", strstr(event, "\"event\":\"returned\"") ? "returned" : "revoked", id);
  return 0;
}
