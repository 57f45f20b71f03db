#pragma once
#include <stddef.h>
#include <stdint.h>

// Of libFuzzer and of the address sanitizer, which both come with the compiler and have no header for C.

/// libFuzzer's own mutation of `size` bytes, in place, to at most `capacity`. Returns the new size.
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity);
/// What is allocated on the heap now, in bytes.
size_t __sanitizer_get_current_allocated_bytes(void);

/// Nanoseconds of `CLOCK_PROCESS_CPUTIME_ID`.
uint64_t cf_processor_nanoseconds(void);
