// A buffer that the guest's virtio-gpu card has not made, in the hands of who writes on standard input, and of a command
// that inherits it: see usage() below. Every step that works is said on standard output.
#define _GNU_SOURCE
#include "dmabufs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

enum { PAGE = 4096, AT_ONCE = 4096 };

static void usage(void) {
    fputs("usage: buffer KIND SIZE SEED [-- COMMAND...]\n"
          "KIND: heap, udmabuf or vgem; or fd:N, a dma-buf that is inherited, of which SIZE bytes are used.\n"
          "The buffer is filled with the pattern of SEED: `filled`. Then COMMAND is started, in which each {} is the number of\n"
          "the buffer's descriptor; its standard input is a pipe that ends with this program, as COMMAND does.\n"
          "On standard input: `fill SEED`, `check SEED`, `write OFFSET HEX`, `read OFFSET COUNT`, `sum` (FNV-1a), `quit`;\n"
          "`drain HOW`: reads all again and again, by bytes, movs (`rep movs`) or avx, until all of it is zero: `zero`.\n"
          "The exit status is that of COMMAND, 128 and more if a signal ended it.\n", stderr);
    exit(2);
}

static void fail(const char *what) {
    fprintf(stderr, "buffer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t number(const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = text ? strtoull(text, &end, 0) : 0;
    if (!text || !*text || *end || errno) usage();
    return value;
}

/// Of the driver vgem's card, whatever its number is.
static int vgem_buffer(uint64_t size) {
    for (int card = 0; card < 16; card++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/dri/card%d", card);
        int fd = open(path, O_RDWR | O_CLOEXEC), buffer = -1;
        drmVersionPtr version = fd < 0 ? NULL : drmGetVersion(fd);
        int is_vgem = version && !strcmp(version->name, "vgem");
        if (version) drmFreeVersion(version);
        uint32_t handle, pitch;
        uint64_t made;
        if (is_vgem && (drmModeCreateDumbBuffer(fd, PAGE / 4, (uint32_t)(size / PAGE), 32, 0, &handle, &pitch, &made)
                        || drmPrimeHandleToFD(fd, handle, DRM_CLOEXEC | DRM_RDWR, &buffer))) fail(path);
        if (fd >= 0) close(fd);
        if (is_vgem) return buffer;
    }
    errno = ENODEV;
    return -1;
}

static int make_buffer(const char *kind, uint64_t size) {
    if (!strcmp(kind, "heap")) return heap_buffer(size);
    if (!strcmp(kind, "udmabuf")) return memfd_buffer(size);
    if (!strcmp(kind, "vgem")) return vgem_buffer(size);
    if (!strncmp(kind, "fd:", 3)) return (int)number(kind + 3);
    usage();
    return -1;
}

// No two words are alike within 2^32, so a byte out of place shows.
static uint8_t pattern(uint64_t offset, uint32_t seed) {
    uint32_t word = 0x01000193u * (uint32_t)(offset / 4) ^ seed * 0x9e3779b9u;
    return (uint8_t)(word >> offset % 4 * 8);
}

static void fill(volatile uint8_t *bytes, uint64_t size, uint32_t seed) {
    for (uint64_t offset = 0; offset < size; offset++) bytes[offset] = pattern(offset, seed);
}

static void check(const volatile uint8_t *bytes, uint64_t size, uint32_t seed) {
    for (uint64_t offset = 0; offset < size; offset++) {
        uint8_t byte = bytes[offset];
        if (byte == pattern(offset, seed)) continue;
        printf("differs at 0x%llx: 0x%02x\n", (unsigned long long)offset, byte);
        return;
    }
    puts("equal");
}

static uint32_t fnv1a(const volatile uint8_t *bytes, uint64_t size) {
    uint32_t sum = 2166136261u;
    for (uint64_t offset = 0; offset < size; offset++) sum = (sum ^ bytes[offset]) * 16777619u;
    return sum;
}

/// The number of bytes that the hexadecimal digits say; -1 if they are none.
static int bytes_of(const char *digits, uint8_t bytes[AT_ONCE]) {
    int count = 0, length;
    for (unsigned value; *digits; digits += 2, count++) {
        if (count == AT_ONCE || sscanf(digits, "%2x%n", &value, &length) != 1 || length != 2) return -1;
        bytes[count] = (uint8_t)value;
    }
    return count;
}

/// Copies by the instructions of that name. `size` is a multiple of 32.
static void copy(const char *how, uint8_t *to, const volatile uint8_t *from, uint64_t size) {
    if (!strcmp(how, "movs")) {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    } else if (!strcmp(how, "avx")) {
        for (; size; size -= 32, to += 32, from += 32)
            __asm__ volatile("vmovdqu (%0), %%ymm0; vmovdqu %%ymm0, (%1)" : : "r"(from), "r"(to) : "xmm0", "memory");
    } else {
        for (uint64_t offset = 0; offset < size; offset++) to[offset] = from[offset];
    }
}

static void drain(const char *how, const volatile uint8_t *bytes, uint64_t size) {
    uint8_t *copied = calloc(2, size);
    if (!copied) fail("calloc");
    if (!strcmp(how, "avx") && !__builtin_cpu_supports("avx")) {
        puts("this processor has no AVX");
    } else {
        puts("draining");
        do copy(how, copied, bytes, size); while (memcmp(copied, copied + size, size));
        puts("zero");
    }
    free(copied);
}

static void obey(volatile uint8_t *bytes, uint64_t size) {
    static char line[2 * AT_ONCE + 64], digits[2 * AT_ONCE + 1], how[8];
    static uint8_t given[AT_ONCE];
    while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n")) {
        unsigned long long offset, count;
        uint32_t seed;
        if (sscanf(line, "fill %u", &seed) == 1) {
            fill(bytes, size, seed);
            puts("filled");
        } else if (sscanf(line, "check %u", &seed) == 1) {
            check(bytes, size, seed);
        } else if (sscanf(line, "write %llu %8192s", &offset, digits) == 2) {
            int length = bytes_of(digits, given);
            if (length < 0 || offset > size || (uint64_t)length > size - offset) { puts("what?"); continue; }
            for (int index = 0; index < length; index++) bytes[offset + (uint64_t)index] = given[index];
            puts("written");
        } else if (sscanf(line, "read %llu %llu", &offset, &count) == 2 && offset <= size && count <= size - offset) {
            for (uint64_t index = 0; index < count; index++) printf("%02x", bytes[offset + index]);
            puts("");
        } else if (sscanf(line, "drain %7s", how) == 1) {
            drain(how, bytes, size & ~31ull);
        } else if (!strcmp(line, "sum\n")) {
            printf("%08x\n", fnv1a(bytes, size));
        } else {
            puts("what?");
        }
    }
}

/// Its process.
static pid_t start(char **command, int buffer) {
    char name[16];
    int input[2];
    snprintf(name, sizeof name, "%d", buffer);
    if (fcntl(buffer, F_SETFD, 0) || pipe2(input, O_CLOEXEC)) fail("pipe");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child) {
        close(input[0]);
        return child;
    }
    for (char **word = command; *word; word++)
        if (!strcmp(*word, "{}")) *word = name;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || dup2(input[0], 0) < 0) fail("start");
    execvp(*command, command);
    fail(*command);
    return -1;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 4 || (argc > 4 && (argc < 6 || strcmp(argv[4], "--")))) usage();
    uint64_t size = number(argv[2]), whole = (size + PAGE - 1) / PAGE * PAGE;
    int buffer = make_buffer(argv[1], whole);
    if (!size || buffer < 0) fail(argv[1]);
    void *bytes = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED, buffer, 0);
    if (bytes == MAP_FAILED) fail("mmap");
    fill(bytes, size, (uint32_t)number(argv[3]));
    puts("filled");
    pid_t child = argc > 5 ? start(argv + 5, buffer) : 0;
    obey(bytes, size);
    munmap(bytes, whole);
    close(buffer);
    int status = 0;
    if (!child) return 0;
    kill(child, SIGTERM);
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
