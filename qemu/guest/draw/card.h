// The guest's virtio-gpu card, its outputs, and dumb buffers.
// What fails ends the program with status 1, but where something else is said.
#pragma once
#include <drm_fourcc.h>
#include <stdint.h>
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

extern int output_index;  // which of the connectors, option -o
extern int card_index;    // N of /dev/dri/cardN, option -c; the first virtio-gpu if negative

_Noreturn void fail(const char *what);
_Noreturn void usage(void);
uint32_t number(const char *text);
void size_of(const char *text, uint32_t *width, uint32_t *height);

void wait_for_end_of_input(void);

int open_card(void);
/// The output that option -o names, of the open card, and of the one that option -c names.
Card output_of(int fd);
Card find_output(void);
Buffer make_buffer(int fd, uint32_t width, uint32_t height, uint32_t format);
void destroy_buffer(int fd, Buffer *buffer);
volatile uint32_t *pixel(Buffer *buffer, uint32_t x, uint32_t y);
/// A number for each pixel, from its place and the seed.
void fill(Buffer *buffer, uint32_t seed, uint32_t mask);
void show(const Card *card, const Buffer *buffer);
void dirty(const Card *card, const Buffer *buffer, uint32_t x, uint32_t y, uint32_t w, uint32_t h);
