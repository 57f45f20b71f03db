// The peer of `bench start`: does nothing but listen, with the libraries of vhost-user-udmabuf. Without arguments it ends.
#include <seccomp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <xf86drm.h>

// That the linker keeps them.
const void *const libraries[] = {drmGetVersion, seccomp_init};

int main(int count, char *arguments[]) {
  if (count != 3)
    return 0;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, arguments[2], sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4) < 0)
    return 1;
  pause();
}
