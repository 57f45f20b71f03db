#include "card.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int output_index, card_index = -1;

void fail(const char *what) {
    fprintf(stderr, "draw: %s: %s\n", what, strerror(errno));
    exit(1);
}

uint32_t number(const char *text) {
    char *end;
    unsigned long value = text ? strtoul(text, &end, 0) : 0;
    if (!text || !*text || *end || value > UINT32_MAX) usage();
    return (uint32_t)value;
}

void size_of(const char *text, uint32_t *width, uint32_t *height) {
    char rest;
    if (!text || sscanf(text, "%ux%u%c", width, height, &rest) != 2) usage();
}

void wait_for_end_of_input(void) {
    char rest[256];
    while (read(STDIN_FILENO, rest, sizeof rest) > 0) {}
}

int open_card(void) {
    for (int index = 0; index < 16; index++) {
        if (card_index >= 0 && index != card_index) continue;
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

Card output_of(int fd) {
    Card card = {.fd = fd};
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

Card find_output(void) { return output_of(open_card()); }

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

Buffer make_buffer(int fd, uint32_t width, uint32_t height, uint32_t format) {
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

void destroy_buffer(int fd, Buffer *buffer) {
    if (munmap((void *)buffer->pixels, buffer->size)) fail("munmap");
    if (drmModeRmFB(fd, buffer->framebuffer)) fail("drmModeRmFB");
    struct drm_mode_destroy_dumb destroy = {.handle = buffer->handle};
    if (drmIoctl(fd, DRM_IOCTL_MODE_DESTROY_DUMB, &destroy)) fail("DRM_IOCTL_MODE_DESTROY_DUMB");
}

volatile uint32_t *pixel(Buffer *buffer, uint32_t x, uint32_t y) {
    return buffer->pixels + (size_t)y * (buffer->pitch / 4) + x;
}

void fill(Buffer *buffer, uint32_t seed, uint32_t mask) {
    for (uint32_t y = 0; y < buffer->height; y++)
        for (uint32_t x = 0; x < buffer->width; x++)
            *pixel(buffer, x, y) = (0x01000193u * (x + 0x10001u * y) ^ seed * 0x9e3779b9u) & mask;
}

void show(const Card *card, const Buffer *buffer) {
    drmModeModeInfo mode = mode_of(card, buffer->width, buffer->height);
    uint32_t connector = card->connector;
    if (drmModeSetCrtc(card->fd, card->crtc, buffer->framebuffer, 0, 0, &connector, 1, &mode))
        fail("drmModeSetCrtc");
}

void dirty(const Card *card, const Buffer *buffer, uint32_t x, uint32_t y, uint32_t w, uint32_t h) {
    drmModeClip clip = {.x1 = x, .y1 = y, .x2 = x + w, .y2 = y + h};
    if (drmModeDirtyFB(card->fd, buffer->framebuffer, &clip, 1)) fail("drmModeDirtyFB");
}
