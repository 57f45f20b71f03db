#ifndef RAW_CALL_H
#define RAW_CALL_H

#include <stdint.h>

// The system call of that number, without what the C library does around it; -1 with errno on an error.
long raw_call(long number, intptr_t a, intptr_t b, intptr_t c, intptr_t d, intptr_t e, intptr_t f);

#endif
