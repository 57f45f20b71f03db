// What the two kinds of hostility share: chance from a seed, the clock, and how they speak.
#pragma once
#include <stdint.h>
#include <stdio.h>

void hostile_drm(double seconds);
void hostile_rings(double seconds);

/// Ends the program with status 1.
_Noreturn void fail(const char *what);

/// 0 ..< count, by the seed alone.
uint32_t chance(uint32_t count);
static inline int one_in(uint32_t count) { return chance(count) == 0; }
/// Numbers at which arithmetic goes wrong, and some that are just random.
uint32_t wild(void);
uint64_t wild64(void);

/// Seconds of the monotonic clock.
double now(void);
/// True once a second, for the line of counts.
int is_time_to_speak(void);
