// Draws on the guest's virtio-gpu card, for the tests: see usage() below.
// Every step that works is said on standard output; every failure ends the program with status 1.
#include "draw/blob.h"
#include "draw/card.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

void usage(void) {
    fputs("usage: draw [-o OUTPUT] [-c CARD] COMMAND\n"
          "  pattern WxH XR24|AR24 SEED [hold]  show a pattern; hold: then `poke X Y VALUE`,\n"
          "                                     `peek X Y`, `dirty X Y W H`, `cursor X Y`, `move X Y`,\n"
          "                                     `nocursor`, `show WxH SEED`, `quit` on standard input\n"
          "  flip WxH SECONDS                   flip between seeds 1 and 2 for that long\n"
          "  flips WxH COUNT                    flip that often\n"
          "  pace WxH SECONDS                   flip for that long, and say how often in a second\n"
          "  work WxH flip|PERCENT HZ SECONDS   at this pace, flip or redraw the upper PERCENT of the screen;\n"
          "                                     say `started`, then how many frames there were\n"
          "  reuse WxH MARKER [PERCENT]         show seed 3, then seed 4; free the first buffer and fill\n"
          "                                     PERCENT (80) of the free memory with MARKER; wait for EOF\n"
          "  scatter MIB                        leave every other page of MIB free until EOF, in a child\n"
          "  many COUNT WxH                     make so many buffers, wait for EOF, destroy them\n"
          "  off                                turn the output off\n"
          "  parameters                         say what the driver says of the card\n"
          "  context                            make a context, wait for EOF\n"
          "  blob guest SIZE FLAGS              a blob of the guest's memory; FLAGS: m(appable), s(hareable),\n"
          "                                     x (cross-device)\n"
          "  blob host SIZE ID                  a blob that the host has\n"
          "  blob heap|udmabuf|fd:N SIZE        a buffer of the guest that the card imports; fd:N is inherited\n"
          "                                     each: `create`, `map`, `fill SEED`, `check SEED`,\n"
          "                                     `poke OFFSET VALUE`, `peek OFFSET`,\n"
          "                                     `show WxH PITCH OFFSET SEED`, `unmap`, `close`, `quit`\n"
          "                                     on standard input; SEED -: what is in it\n"
          "  blobs COUNT SIZE ID                map the host's blob that often, wait for EOF\n", stderr);
    exit(2);
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

static void pattern(uint32_t width, uint32_t height, uint32_t format, uint32_t seed, int hold) {
    Card card = find_output();
    Buffer buffer = make_buffer(card.fd, width, height, format);
    const uint32_t mask = format == DRM_FORMAT_XRGB8888 ? 0xffffffu : ~0u;
    fill(&buffer, seed, mask);
    show(&card, &buffer);
    dirty(&card, &buffer, 0, 0, width, height);
    puts("shown");
    char line[256];
    while (hold && fgets(line, sizeof line, stdin)) {
        uint32_t x, y, w, h, other;
        int cursor_x, cursor_y;
        char value[16];
        if (!strncmp(line, "quit", 4)) break;
        if (sscanf(line, "poke %u %u %15s", &x, &y, value) == 3 && x < width && y < height) {
            *pixel(&buffer, x, y) = number(value);
            puts("poked");
        } else if (sscanf(line, "peek %u %u", &x, &y) == 2 && x < width && y < height) {
            printf("0x%08x\n", *pixel(&buffer, x, y));
        } else if (sscanf(line, "dirty %u %u %u %u", &x, &y, &w, &h) == 4) {
            dirty(&card, &buffer, x, y, w, h);
            puts("dirtied");
        } else if (sscanf(line, "cursor %d %d", &cursor_x, &cursor_y) == 2) {
            show_cursor(&card, cursor_x, cursor_y);
            puts("cursor");
        } else if (sscanf(line, "move %d %d", &cursor_x, &cursor_y) == 2) {
            if (drmModeMoveCursor(card.fd, card.crtc, cursor_x, cursor_y)) fail("drmModeMoveCursor");
            puts("moved");
        } else if (sscanf(line, "show %ux%u %u", &w, &h, &other) == 3) {
            // Another mode, without a dark screen in between.
            Buffer next = make_buffer(card.fd, w, h, format);
            fill(&next, other, mask);
            show(&card, &next);
            dirty(&card, &next, 0, 0, w, h);
            destroy_buffer(card.fd, &buffer);
            buffer = next;
            puts("shown");
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

// Makes two buffers with the seeds 1 and 2, and shows the first one.
static void show_first(const Card *card, uint32_t width, uint32_t height, Buffer buffers[2]) {
    for (uint32_t index = 0; index < 2; index++) {
        buffers[index] = make_buffer(card->fd, width, height, DRM_FORMAT_XRGB8888);
        fill(&buffers[index], index + 1, 0xffffffu);
    }
    show(card, &buffers[0]);
}

// Flips to the buffer, and waits for the event of it.
static void flip_to(const Card *card, const Buffer *buffer) {
    drmEventContext context = {.version = 2, .page_flip_handler = flipped};
    int pending = 1;
    if (drmModePageFlip(card->fd, card->crtc, buffer->framebuffer, DRM_MODE_PAGE_FLIP_EVENT, &pending))
        fail("drmModePageFlip");
    struct pollfd event = {.fd = card->fd, .events = POLLIN};
    while (pending) {
        int ready = poll(&event, 1, 10000);
        if (!ready) errno = ETIMEDOUT;
        if (ready < 1 || drmHandleEvent(card->fd, &context)) fail("page flip event");
    }
}

static void flip(uint32_t width, uint32_t height, uint32_t count, double seconds, int as_pace) {
    Card card = find_output();
    Buffer buffers[2];
    show_first(&card, width, height, buffers);
    double end = now() + seconds, first = 0;
    uint32_t flips = 0;
    while (flips < count && (seconds <= 0 || now() < end)) {
        flip_to(&card, &buffers[(flips + 1) & 1]);
        if (!flips++) first = now();
    }
    if (as_pace) printf("pace %.2f\n", (flips - 1) / (now() - first));
    else printf("flips %u\n", flips);
}

// The same frames in the same time whatever a frame costs, as long as it costs less than its time.
static void work(uint32_t width, uint32_t height, uint32_t percent, uint32_t rate, uint32_t seconds) {
    Card card = find_output();
    Buffer buffers[2];
    show_first(&card, width, height, buffers);
    puts("started");
    const double start = now();
    uint32_t frames = 0;
    for (uint32_t turn = 1; turn <= rate * seconds; turn++) {
        double left = start + (double)turn / rate - now();
        if (left > 0) usleep((useconds_t)(left * 1e6));
        else if (left < -1.0 / rate) continue;  // Late by a frame: there is none in this turn.
        if (percent) {
            memset((void *)buffers[0].pixels, (int)turn, (size_t)buffers[0].pitch * (height * percent / 100));
            dirty(&card, &buffers[0], 0, 0, width, height * percent / 100);
        } else {
            flip_to(&card, &buffers[turn & 1]);
        }
        frames++;
    }
    printf("frames %u\n", frames);
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
    while (argc > 2 && (!strcmp(argv[1], "-o") || !strcmp(argv[1], "-c"))) {
        *(argv[1][1] == 'o' ? &output_index : &card_index) = (int)number(argv[2]);
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
        flip(width, height, UINT32_MAX, number(second), 0);
    } else if (!strcmp(command, "flips")) {
        size_of(first, &width, &height);
        flip(width, height, number(second), 0, 0);
    } else if (!strcmp(command, "pace")) {
        size_of(first, &width, &height);
        flip(width, height, UINT32_MAX, number(second), 1);
    } else if (!strcmp(command, "work")) {
        size_of(first, &width, &height);
        const char *seconds = third && argc > 5 ? argv[5] : NULL;
        work(width, height, second && !strcmp(second, "flip") ? 0 : number(second), number(third), number(seconds));
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
    } else if (!strcmp(command, "parameters")) {
        parameters();
    } else if (!strcmp(command, "context")) {
        context();
    } else if (!strcmp(command, "blob")) {
        if (!first) usage();
        blob(first, number(second), third);
    } else if (!strcmp(command, "blobs")) {
        blobs(number(first), number(second), number(third));
    } else {
        usage();
    }
    return 0;
}
