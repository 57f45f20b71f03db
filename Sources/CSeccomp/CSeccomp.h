// libseccomp, as pkg-config finds it.
#include <seccomp.h>
