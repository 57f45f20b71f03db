// What `udmabridge create --fd FD OFFSET:LENGTH -- COMMAND` does, in bare C: one udmabuf of one range, which the
// command inherits. The peer of the benchmark of whole processes.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/udmabuf.h>

int main(int argc, char **argv) {
  if (argc < 5) {
    fputs("usage: bench-create FD OFFSET LENGTH COMMAND...\n", stderr);
    return 64;
  }
  int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
  if (device < 0) {
    perror("/dev/udmabuf");
    return 1;
  }
  struct udmabuf_create item = {
      .memfd = (unsigned)atoi(argv[1]), .offset = strtoull(argv[2], NULL, 0), .size = strtoull(argv[3], NULL, 0)};
  if (ioctl(device, UDMABUF_CREATE, &item) < 0) {
    perror("UDMABUF_CREATE");
    return 1;
  }
  execvp(argv[4], argv + 4);
  perror(argv[4]);
  return 127;
}
