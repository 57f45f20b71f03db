// Says one message to a varlink service, and prints the answer.
//
//   say SOCKET MESSAGE
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **words) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char answer[16384];
  size_t length = 0;
  if (count != 3) {
    fputs("usage: say SOCKET MESSAGE\n", stderr);
    return 2;
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
  size_t size = strlen(words[2]) + 1; // A message ends with a NUL.
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
      send(fd, words[2], size, MSG_NOSIGNAL) != (ssize_t)size) {
    perror(words[1]);
    return 1;
  }
  while (!memchr(answer, 0, length)) {
    ssize_t more = read(fd, answer + length, sizeof answer - length);
    if (more <= 0) {
      fprintf(stderr, "%s: no whole answer\n", words[1]);
      return 1;
    }
    length += (size_t)more;
  }
  puts(answer);
  return 0;
}
