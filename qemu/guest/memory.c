// Writes into memory whose guest-physical address it can tell, for the tests: see usage() below.
// Every step that works is said on standard output; every failure ends the program with status 1.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 4, CHUNK = 16384 };

static void fail(const char *what) {
    fprintf(stderr, "memory: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void usage(void) {
    fputs("usage: memory COMMAND\n"
          "  pages COUNT SEED [FIRST LAST]  find so many pages at guest-physical addresses from FIRST to LAST, write\n"
          "                                 into each, print their addresses in one line; then `write SEED` on\n"
          "                                 standard input writes anew\n"
          "  image FILE OFFSET WxH SEED     draw the pattern of `draw` into a file that can be mapped, such as a PCI\n"
          "                                 resource in sysfs\n", stderr);
    exit(2);
}

static uint64_t number(const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (!*text || *end || errno) usage();
    return value;
}

// Word `index` of page `page`: no two are alike within 2^22 pages.
static uint32_t word(uint32_t seed, uint32_t page, uint32_t index) {
    return (page * WORDS + index) * 0x01000193u ^ seed * 0x9e3779b9u;
}

static void fill(volatile uint32_t *const *pages, uint32_t count, uint32_t seed) {
    for (uint32_t page = 0; page < count; page++)
        for (uint32_t index = 0; index < WORDS; index++) pages[page][index] = word(seed, page, index);
}

// Where the kernel has put a page that was written to.
static uint64_t physical(int map, const void *page) {
    uint64_t entry;
    if (pread(map, &entry, sizeof entry, (off_t)((uintptr_t)page / PAGE * sizeof entry)) != sizeof entry) fail("pagemap");
    if (!(entry >> 63)) return UINT64_MAX;
    return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void pages(uint32_t count, uint32_t seed, uint64_t first, uint64_t last) {
    int map = open("/proc/self/pagemap", O_RDONLY);
    if (map < 0) fail("/proc/self/pagemap");
    volatile uint32_t **found = calloc(count, sizeof *found);
    uint64_t *addresses = calloc(count, sizeof *addresses);
    if (!found || !addresses) fail("calloc");
    uint32_t have = 0;
    while (have < count) {
        // What does not fit stays taken, so that the kernel hands out something else.
        char *chunk = mmap(NULL, (size_t)CHUNK * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED) fail("mmap");
        madvise(chunk, (size_t)CHUNK * PAGE, MADV_NOHUGEPAGE);
        for (uint32_t index = 0; index < CHUNK && have < count; index++) {
            char *page = chunk + (size_t)index * PAGE;
            *page = 1;
            uint64_t address = physical(map, page);
            if (address < first || address > last) continue;
            if (mlock(page, PAGE)) fail("mlock");
            // Not each one: neighbours could be joined.
            if (index % 3 == 2) continue;
            found[have] = (volatile uint32_t *)page;
            addresses[have++] = address;
        }
    }
    fill((volatile uint32_t *const *)found, count, seed);
    for (uint32_t page = 0; page < count; page++) {
        if (physical(map, (const void *)found[page]) != addresses[page]) fail("a page has moved");
        printf("%s0x%llx:0x%x", page ? " " : "", (unsigned long long)addresses[page], PAGE);
    }
    puts("");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "write %u", &seed) != 1) usage();
        fill((volatile uint32_t *const *)found, count, seed);
        puts("written");
        fflush(stdout);
    }
}

static void image(const char *file, uint64_t offset, uint32_t width, uint32_t height, uint32_t seed) {
    int fd = open(file, O_RDWR);
    if (fd < 0) fail(file);
    size_t size = (size_t)width * height * 4;
    volatile uint32_t *pixels = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (pixels == MAP_FAILED) fail("mmap");
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            pixels[(size_t)y * width + x] = (0x01000193u * (x + 0x10001u * y) ^ seed * 0x9e3779b9u) & 0xffffff;
    puts("drawn");
}

int main(int argc, char **argv) {
    uint32_t width, height;
    char rest;
    // A line is written as a whole, however long: whoever waits for it takes what is there.
    setvbuf(stdout, NULL, _IOFBF, 1 << 20);
    if ((argc == 4 || argc == 6) && !strcmp(argv[1], "pages"))
        pages((uint32_t)number(argv[2]), (uint32_t)number(argv[3]), argc == 6 ? number(argv[4]) : 0,
              argc == 6 ? number(argv[5]) : UINT64_MAX - 1);
    else if (argc == 6 && !strcmp(argv[1], "image") && sscanf(argv[4], "%ux%u%c", &width, &height, &rest) == 2)
        image(argv[2], number(argv[3]), width, height, (uint32_t)number(argv[5]));
    else
        usage();
    return 0;
}
