// Drives the guest's virtio-gpu card in wrong ways, for the tests: see usage() below.
// It says once a second what it has done. What it does is decided by the seed, up to the answers' timing.
#include "hostile/hostile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t state;

_Noreturn void fail(const char *what) {
    fprintf(stderr, "hostile: %s: %s\n", what, strerror(errno));
    exit(1);
}

static _Noreturn void usage(void) {
    fputs("usage: hostile drm|rings SECONDS SEED\n"
          "  drm     through the driver: ioctls of DRM and of virtgpu, in random order\n"
          "  rings   instead of the driver, which loses the card: what no driver would write into the rings\n", stderr);
    exit(2);
}

// xorshift64*
uint32_t chance(uint32_t count) {
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)((state * 0x2545f4914f6cdd1du >> 32) * count >> 32);
}

uint32_t wild(void) {
    static const uint32_t edges[] = {0, 1, 2, 3, 4, 16, 255, 4095, 4096, 4097, 0x7fff, 0xffff, 0x10000, 0x3fffffff,
                                     0x40000000, 0x7fffffff, 0x80000000, 0xfffff000, 0xfffffffe, 0xffffffff};
    const uint32_t count = sizeof edges / sizeof *edges;
    return one_in(3) ? chance(UINT32_MAX) : edges[chance(count)] - one_in(8) + one_in(8);
}

uint64_t wild64(void) {
    return one_in(2) ? wild() : (uint64_t)wild() << 32 | wild();
}

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int is_time_to_speak(void) {
    static double next;
    if (now() < next) return 0;
    next = now() + 1;
    return 1;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 4) usage();
    char *rest_of_seconds, *rest_of_seed;
    double seconds = strtod(argv[2], &rest_of_seconds);
    state = strtoull(argv[3], &rest_of_seed, 0);
    if (*rest_of_seconds || *rest_of_seed || !(seconds > 0)) usage();
    state = state * 0x9e3779b97f4a7c15u | 1;  // Zero would stay zero.
    if (!strcmp(argv[1], "drm")) hostile_drm(seconds);
    else if (!strcmp(argv[1], "rings")) hostile_rings(seconds);
    else usage();
    return 0;
}
