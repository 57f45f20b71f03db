#define _GNU_SOURCE
#include "RawCall.h"

#include <unistd.h>

long raw_call(long number, intptr_t a, intptr_t b, intptr_t c, intptr_t d, intptr_t e, intptr_t f) {
  return syscall(number, a, b, c, d, e, f);
}
