// Draws on the guest's virtio-gpu card, for the tests: see usage() below.
// Every step that works is said on standard output; every failure ends the program with status 1.
#include <drm_fourcc.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

typedef struct {
    uint32_t width, height, pitch, handle, framebuffer;
    uint64_t size;
    volatile uint32_t *pixels;
} Buffer;

typedef struct {
    int fd;
    uint32_t connector, crtc;
    drmModeConnector *info;
} Card;

static int output_index;  // which of the connectors, option -o

static void fail(const char *what) {
    fprintf(stderr, "draw: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void usage(void) {
    fputs("usage: draw [-o OUTPUT] COMMAND\n"
          "  pattern WxH XR24|AR24 SEED [hold]  show a pattern; hold: then `poke X Y VALUE`,\n"
          "                                     `dirty X Y W H`, `cursor X Y`, `move X Y`, `nocursor`,\n"
          "                                     `quit` on standard input\n"
          "  flip WxH SECONDS                   flip between seeds 1 and 2 for that long\n"
          "  flips WxH COUNT                    flip that often\n"
          "  reuse WxH MARKER [PERCENT]         show seed 3, then seed 4; free the first buffer and fill\n"
          "                                     PERCENT (80) of the free memory with MARKER; wait for EOF\n"
          "  scatter MIB                        leave every other page of MIB free until EOF, in a child\n"
          "  many COUNT WxH                     make so many buffers, wait for EOF, destroy them\n"
          "  off                                turn the output off\n", stderr);
    exit(2);
}

static uint32_t number(const char *text) {
    char *end;
    unsigned long value = text ? strtoul(text, &end, 0) : 0;
    if (!text || !*text || *end || value > UINT32_MAX) usage();
    return (uint32_t)value;
}

static void size_of(const char *text, uint32_t *width, uint32_t *height) {
    char rest;
    if (!text || sscanf(text, "%ux%u%c", width, height, &rest) != 2) usage();
}

static int open_card(void) {
    for (int index = 0; index < 16; index++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/dri/card%d", index);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) continue;
        drmVersion *version = drmGetVersion(fd);
        int found = version && !strcmp(version->name, "virtio_gpu");
        drmFreeVersion(version);
        if (found) return fd;
        close(fd);
    }
    errno = ENODEV;
    fail("no virtio_gpu card");
    return -1;
}

static Card find_output(void) {
    Card card = {.fd = open_card()};
    drmModeRes *resources = drmModeGetResources(card.fd);
    if (!resources) fail("drmModeGetResources");
    if (output_index >= resources->count_connectors || output_index >= resources->count_crtcs) {
        errno = ENODEV;
        fail("output");
    }
    // Output, encoder and CRTC of this driver come in the same order.
    card.connector = resources->connectors[output_index];
    card.crtc = resources->crtcs[output_index];
    card.info = drmModeGetConnector(card.fd, card.connector);
    if (!card.info) fail("drmModeGetConnector");
    drmModeFreeResources(resources);
    return card;
}

static drmModeModeInfo mode_of(const Card *card, uint32_t width, uint32_t height) {
    for (int index = 0; index < card->info->count_modes; index++) {
        drmModeModeInfo *mode = &card->info->modes[index];
        if (mode->hdisplay == width && mode->vdisplay == height) return *mode;
    }
    // None of that size: 60 Hz with the reduced blanking of CVT.
    drmModeModeInfo mode = {
        .hdisplay = width, .hsync_start = width + 48, .hsync_end = width + 80, .htotal = width + 160,
        .vdisplay = height, .vsync_start = height + 3, .vsync_end = height + 9, .vtotal = height + 30,
        .vrefresh = 60, .flags = DRM_MODE_FLAG_PHSYNC | DRM_MODE_FLAG_NVSYNC, .type = DRM_MODE_TYPE_USERDEF,
    };
    mode.clock = (uint32_t)((uint64_t)mode.htotal * mode.vtotal * 60 / 1000);
    snprintf(mode.name, sizeof mode.name, "%ux%u", width, height);
    return mode;
}

static Buffer make_buffer(int fd, uint32_t width, uint32_t height, uint32_t format) {
    struct drm_mode_create_dumb create = {.width = width, .height = height, .bpp = 32};
    if (drmIoctl(fd, DRM_IOCTL_MODE_CREATE_DUMB, &create)) fail("DRM_IOCTL_MODE_CREATE_DUMB");
    Buffer buffer = {.width = width, .height = height, .pitch = create.pitch,
                     .handle = create.handle, .size = create.size};
    uint32_t handles[4] = {buffer.handle}, pitches[4] = {buffer.pitch}, offsets[4] = {0};
    if (drmModeAddFB2(fd, width, height, format, handles, pitches, offsets, &buffer.framebuffer, 0))
        fail("drmModeAddFB2");
    struct drm_mode_map_dumb map = {.handle = buffer.handle};
    if (drmIoctl(fd, DRM_IOCTL_MODE_MAP_DUMB, &map)) fail("DRM_IOCTL_MODE_MAP_DUMB");
    void *address = mmap(NULL, buffer.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)map.offset);
    if (address == MAP_FAILED) fail("mmap of the buffer");
    buffer.pixels = address;
    return buffer;
}

static void destroy_buffer(int fd, Buffer *buffer) {
    if (munmap((void *)buffer->pixels, buffer->size)) fail("munmap");
    if (drmModeRmFB(fd, buffer->framebuffer)) fail("drmModeRmFB");
    struct drm_mode_destroy_dumb destroy = {.handle = buffer->handle};
    if (drmIoctl(fd, DRM_IOCTL_MODE_DESTROY_DUMB, &destroy)) fail("DRM_IOCTL_MODE_DESTROY_DUMB");
}

static volatile uint32_t *pixel(Buffer *buffer, uint32_t x, uint32_t y) {
    return buffer->pixels + (size_t)y * (buffer->pitch / 4) + x;
}

static void fill(Buffer *buffer, uint32_t seed, uint32_t mask) {
    for (uint32_t y = 0; y < buffer->height; y++)
        for (uint32_t x = 0; x < buffer->width; x++)
            *pixel(buffer, x, y) = (0x01000193u * (x + 0x10001u * y) ^ seed * 0x9e3779b9u) & mask;
}

static void show(const Card *card, const Buffer *buffer) {
    drmModeModeInfo mode = mode_of(card, buffer->width, buffer->height);
    uint32_t connector = card->connector;
    if (drmModeSetCrtc(card->fd, card->crtc, buffer->framebuffer, 0, 0, &connector, 1, &mode))
        fail("drmModeSetCrtc");
}

static void dirty(const Card *card, const Buffer *buffer, uint32_t x, uint32_t y, uint32_t w, uint32_t h) {
    drmModeClip clip = {.x1 = x, .y1 = y, .x2 = x + w, .y2 = y + h};
    if (drmModeDirtyFB(card->fd, buffer->framebuffer, &clip, 1)) fail("drmModeDirtyFB");
}

// A cursor of 64x64 pixels, colours multiplied by alpha: the left quarter red, then half green that lets half
// through, and in the rest blue lines with nothing between them.
static uint32_t cursor_pixel(uint32_t x, uint32_t y) {
    return x < 16 ? 0xffff0000u : x < 32 ? 0x80008000u : y % 4 ? 0 : 0xff0000ffu;
}

static void show_cursor(const Card *card, int x, int y) {
    Buffer buffer = make_buffer(card->fd, 64, 64, DRM_FORMAT_ARGB8888);
    for (uint32_t row = 0; row < 64; row++)
        for (uint32_t column = 0; column < 64; column++)
            *pixel(&buffer, column, row) = cursor_pixel(column, row);
    if (drmModeMoveCursor(card->fd, card->crtc, x, y)) fail("drmModeMoveCursor");
    if (drmModeSetCursor(card->fd, card->crtc, buffer.handle, 64, 64)) fail("drmModeSetCursor");
}

static void wait_for_end_of_input(void) {
    char rest[256];
    while (read(STDIN_FILENO, rest, sizeof rest) > 0) {}
}

static void pattern(uint32_t width, uint32_t height, uint32_t format, uint32_t seed, int hold) {
    Card card = find_output();
    Buffer buffer = make_buffer(card.fd, width, height, format);
    fill(&buffer, seed, format == DRM_FORMAT_XRGB8888 ? 0xffffffu : ~0u);
    show(&card, &buffer);
    dirty(&card, &buffer, 0, 0, width, height);
    puts("shown");
    char line[256];
    while (hold && fgets(line, sizeof line, stdin)) {
        uint32_t x, y, w, h;
        int cursor_x, cursor_y;
        char value[16];
        if (!strncmp(line, "quit", 4)) break;
        if (sscanf(line, "poke %u %u %15s", &x, &y, value) == 3 && x < width && y < height) {
            *pixel(&buffer, x, y) = number(value);
            puts("poked");
        } else if (sscanf(line, "dirty %u %u %u %u", &x, &y, &w, &h) == 4) {
            dirty(&card, &buffer, x, y, w, h);
            puts("dirtied");
        } else if (sscanf(line, "cursor %d %d", &cursor_x, &cursor_y) == 2) {
            show_cursor(&card, cursor_x, cursor_y);
            puts("cursor");
        } else if (sscanf(line, "move %d %d", &cursor_x, &cursor_y) == 2) {
            if (drmModeMoveCursor(card.fd, card.crtc, cursor_x, cursor_y)) fail("drmModeMoveCursor");
            puts("moved");
        } else if (!strncmp(line, "nocursor", 8)) {
            if (drmModeSetCursor(card.fd, card.crtc, 0, 0, 0)) fail("drmModeSetCursor");
            puts("no cursor");
        } else {
            puts("what?");
        }
    }
}

static void flipped(int fd, unsigned sequence, unsigned seconds, unsigned microseconds, void *pending) {
    (void)fd, (void)sequence, (void)seconds, (void)microseconds;
    *(int *)pending = 0;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void flip(uint32_t width, uint32_t height, uint32_t count, double seconds) {
    Card card = find_output();
    Buffer buffers[2];
    for (uint32_t index = 0; index < 2; index++) {
        buffers[index] = make_buffer(card.fd, width, height, DRM_FORMAT_XRGB8888);
        fill(&buffers[index], index + 1, 0xffffffu);
    }
    show(&card, &buffers[0]);
    drmEventContext context = {.version = 2, .page_flip_handler = flipped};
    double end = now() + seconds;
    uint32_t flips = 0;
    while (flips < count && (seconds <= 0 || now() < end)) {
        int pending = 1;
        if (drmModePageFlip(card.fd, card.crtc, buffers[(flips + 1) & 1].framebuffer,
                            DRM_MODE_PAGE_FLIP_EVENT, &pending)) fail("drmModePageFlip");
        struct pollfd event = {.fd = card.fd, .events = POLLIN};
        while (pending) {
            int ready = poll(&event, 1, 10000);
            if (!ready) errno = ETIMEDOUT;
            if (ready < 1 || drmHandleEvent(card.fd, &context)) fail("page flip event");
        }
        flips++;
    }
    printf("flips %u\n", flips);
}

// Takes that much of the free memory, in pieces, so that the end of it is not the end of us.
static void refill(uint32_t marker, uint32_t percent) {
    char line[128];
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) fail("/proc/meminfo");
    while (fgets(line, sizeof line, file) && sscanf(line, "MemFree: %llu", &kilobytes) != 1) {}
    fclose(file);
    const size_t piece = 1 << 20;
    for (size_t left = kilobytes * 1024 * percent / 100; left >= piece; left -= piece) {
        uint32_t *words = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (words == MAP_FAILED) fail("mmap");
        madvise(words, piece, MADV_NOHUGEPAGE);
        if (mlock(words, piece)) fail("mlock");
        for (size_t index = 0; index < piece / 4; index++) words[index] = marker;
    }
}

static void reuse(uint32_t width, uint32_t height, uint32_t marker, uint32_t percent) {
    Card card = find_output();
    Buffer first = make_buffer(card.fd, width, height, DRM_FORMAT_XRGB8888);
    fill(&first, 3, 0xffffffu);
    show(&card, &first);
    Buffer second = make_buffer(card.fd, width, height, DRM_FORMAT_XRGB8888);
    fill(&second, 4, 0xffffffu);
    show(&card, &second);
    destroy_buffer(card.fd, &first);
    refill(marker, percent);
    puts("refilled");
    wait_for_end_of_input();
}

static void scatter(uint32_t mebibytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)mebibytes << 20;
    char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) fail("mmap");
    madvise(area, size, MADV_NOHUGEPAGE);
    for (size_t offset = 0; offset < size; offset += page) area[offset] = 1;
    for (size_t offset = 0; offset < size; offset += 2 * page)
        if (madvise(area + offset, page, MADV_DONTNEED)) fail("madvise");
    puts("scattered");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child > 0) return;
    fclose(stdout);
    wait_for_end_of_input();
}

static void many(uint32_t count, uint32_t width, uint32_t height) {
    int fd = open_card();
    Buffer *buffers = calloc(count, sizeof *buffers);
    if (!buffers) fail("calloc");
    for (uint32_t index = 0; index < count; index++)
        buffers[index] = make_buffer(fd, width, height, DRM_FORMAT_XRGB8888);
    printf("made %u\n", count);
    wait_for_end_of_input();
    for (uint32_t index = 0; index < count; index++) destroy_buffer(fd, &buffers[index]);
    printf("destroyed %u\n", count);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 2 && !strcmp(argv[1], "-o")) {
        output_index = (int)number(argv[2]);
        argc -= 2, argv += 2;
    }
    const char *command = argc > 1 ? argv[1] : "", *first = argc > 2 ? argv[2] : NULL;
    const char *second = argc > 3 ? argv[3] : NULL, *third = argc > 4 ? argv[4] : NULL;
    uint32_t width = 0, height = 0;
    if (!strcmp(command, "pattern")) {
        size_of(first, &width, &height);
        if (!second || (strcmp(second, "XR24") && strcmp(second, "AR24"))) usage();
        uint32_t format = *second == 'X' ? DRM_FORMAT_XRGB8888 : DRM_FORMAT_ARGB8888;
        pattern(width, height, format, number(third), argc > 5 && !strcmp(argv[5], "hold"));
    } else if (!strcmp(command, "flip")) {
        size_of(first, &width, &height);
        flip(width, height, UINT32_MAX, number(second));
    } else if (!strcmp(command, "flips")) {
        size_of(first, &width, &height);
        flip(width, height, number(second), 0);
    } else if (!strcmp(command, "reuse")) {
        size_of(first, &width, &height);
        reuse(width, height, number(second), third ? number(third) : 80);
    } else if (!strcmp(command, "scatter")) {
        scatter(number(first));
    } else if (!strcmp(command, "many")) {
        size_of(second, &width, &height);
        many(number(first), width, height);
    } else if (!strcmp(command, "off")) {
        Card card = find_output();
        if (drmModeSetCrtc(card.fd, card.crtc, 0, 0, 0, NULL, 0, NULL)) fail("drmModeSetCrtc");
        puts("off");
    } else {
        usage();
    }
    return 0;
}
