#define _GNU_SOURCE
#include "blob.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../dmabufs.h"
#include "card.h"
#include "virtgpu.h"

typedef struct {
    const char *kind, *detail;
    int fd, dmabuf;  // of the card; of an imported buffer
    uint32_t handle;
    uint64_t size;
    volatile uint32_t *words;
} Blob;

static uint64_t parameter(int fd, uint64_t which) {
    int value = 0;
    struct drm_virtgpu_getparam get = {.param = which, .value = (uintptr_t)&value};
    return drmIoctl(fd, DRM_IOCTL_VIRTGPU_GETPARAM, &get) ? 0 : (uint64_t)value;
}

void parameters(void) {
    int fd = open_card();
    printf("3d %d blob %d host-visible %d cross-device %d context %d\n",
           (int)parameter(fd, VIRTGPU_PARAM_3D_FEATURES), (int)parameter(fd, PARAM_RESOURCE_BLOB),
           (int)parameter(fd, PARAM_HOST_VISIBLE), (int)parameter(fd, PARAM_CROSS_DEVICE),
           (int)parameter(fd, PARAM_CONTEXT_INIT));
}

void context(void) {
    int fd = open_card();
    struct context_parameter parameter = {.param = CONTEXT_PARAM_NUM_RINGS, .value = 1};
    struct context_init init = {.num_params = 1, .ctx_set_params = (uintptr_t)&parameter};
    if (drmIoctl(fd, IOCTL_CONTEXT_INIT, &init)) fail("context");
    puts("context");
    wait_for_end_of_input();
}

static int create_blob(int fd, uint32_t memory, uint32_t flags, uint64_t id, uint64_t size, uint32_t *handle) {
    struct create_blob create = {.blob_mem = memory, .blob_flags = flags, .size = size, .blob_id = id};
    int result = drmIoctl(fd, IOCTL_CREATE_BLOB, &create);
    *handle = create.bo_handle;
    return result;
}

/// The mapping, or NULL. Whether the host has such a blob is known only now: the driver does not wait for its answer
/// before.
static void *map_blob(int fd, uint32_t handle, uint64_t size) {
    struct drm_virtgpu_map map = {.handle = handle};
    if (drmIoctl(fd, DRM_IOCTL_VIRTGPU_MAP, &map)) return NULL;
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)map.offset);
    return address == MAP_FAILED ? NULL : address;
}

static int close_handle(int fd, uint32_t handle) {
    struct drm_gem_close close = {.handle = handle};
    return drmIoctl(fd, DRM_IOCTL_GEM_CLOSE, &close);
}

static uint32_t flags_of(const char *letters) {
    uint32_t flags = 0;
    for (; *letters; letters++)
        flags |= *letters == 'm' ? BLOB_FLAG_MAPPABLE : *letters == 's' ? BLOB_FLAG_SHAREABLE
                 : *letters == 'x' ? BLOB_FLAG_CROSS_DEVICE : (usage(), 0);
    return flags;
}

static int is_inherited(const Blob *blob) { return !strncmp(blob->kind, "fd:", 3); }

static int is_import(const Blob *blob) {
    return is_inherited(blob) || !strcmp(blob->kind, "heap") || !strcmp(blob->kind, "udmabuf");
}

static int create(Blob *blob) {
    if (!strcmp(blob->kind, "guest"))
        return create_blob(blob->fd, BLOB_MEM_GUEST, flags_of(blob->detail), 0, blob->size, &blob->handle);
    if (!strcmp(blob->kind, "host"))
        return create_blob(blob->fd, BLOB_MEM_HOST3D, BLOB_FLAG_MAPPABLE | BLOB_FLAG_SHAREABLE, number(blob->detail),
                           blob->size, &blob->handle);
    blob->dmabuf = is_inherited(blob) ? (int)number(blob->kind + 3)
                   : *blob->kind == 'h' ? heap_buffer(blob->size) : memfd_buffer(blob->size);
    return blob->dmabuf < 0 ? -1 : drmPrimeFDToHandle(blob->fd, blob->dmabuf, &blob->handle);
}

static int map(Blob *blob) {
    void *address = is_import(blob) ? mmap(NULL, blob->size, PROT_READ | PROT_WRITE, MAP_SHARED, blob->dmabuf, 0)
                                    : map_blob(blob->fd, blob->handle, blob->size);
    if (!address || address == MAP_FAILED) return -1;
    blob->words = address;
    return 0;
}

static int unmap(Blob *blob) {
    int result = munmap((void *)blob->words, blob->size);
    blob->words = NULL;
    return result;
}

static int close_blob(Blob *blob) {
    if (is_import(blob)) close(blob->dmabuf);
    int result = close_handle(blob->fd, blob->handle);
    blob->handle = 0;
    return result;
}

static uint32_t word(uint32_t index, uint32_t seed) { return 0x01000193u * index ^ seed * 0x9e3779b9u; }

static void fill_words(Blob *blob, uint32_t seed) {
    for (uint32_t index = 0; index < blob->size / 4; index++) blob->words[index] = word(index, seed);
}

static void check_words(const Blob *blob, uint32_t seed) {
    for (uint32_t index = 0; index < blob->size / 4; index++) {
        uint32_t value = blob->words[index];
        if (value == word(index, seed)) continue;
        printf("differs at 0x%x: 0x%08x instead of 0x%08x\n", index * 4, value, word(index, seed));
        return;
    }
    puts("equal");
}

/// Puts the pattern of `seed`, a number or - for none, into a part of the blob, and shows that.
static int show_blob(Blob *blob, uint32_t width, uint32_t height, uint32_t pitch, uint32_t offset, const char *seed) {
    Buffer buffer = {.width = width, .height = height, .pitch = pitch, .pixels = blob->words + offset / 4};
    if (pitch / 4 < width || offset + (uint64_t)pitch * height > blob->size) usage();
    if (strcmp(seed, "-")) fill(&buffer, number(seed), 0xffffffu);
    uint32_t handles[4] = {blob->handle}, pitches[4] = {pitch}, offsets[4] = {offset};
    if (drmModeAddFB2(blob->fd, width, height, DRM_FORMAT_XRGB8888, handles, pitches, offsets,
                      &buffer.framebuffer, 0)) return -1;
    Card card = output_of(blob->fd);
    show(&card, &buffer);
    return 0;
}

static void say(int result, const char *what) {
    if (result) printf("refused: %s\n", strerror(errno));
    else puts(what);
}

void blob(const char *kind, uint64_t size, const char *detail) {
    Blob blob = {.kind = kind, .detail = detail, .fd = open_card(), .size = size};
    if (!is_import(&blob) && ((strcmp(kind, "guest") && strcmp(kind, "host")) || !detail)) usage();
    puts("open");
    char line[256], picture[16];
    while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n")) {
        uint32_t a, b, pitch, offset, seed;
        if (!strcmp(line, "create\n")) say(create(&blob), "created");
        else if (!strcmp(line, "close\n")) say(close_blob(&blob), "closed");
        else if (!strcmp(line, "map\n")) say(map(&blob), "mapped");
        else if (!blob.words) puts("not mapped");
        else if (!strcmp(line, "unmap\n")) say(unmap(&blob), "unmapped");
        else if (sscanf(line, "fill %u", &seed) == 1) fill_words(&blob, seed), puts("filled");
        else if (sscanf(line, "check %u", &seed) == 1) check_words(&blob, seed);
        else if (sscanf(line, "poke %i %i", &a, &b) == 2 && a < size) blob.words[a / 4] = b, puts("poked");
        else if (sscanf(line, "peek %i", &a) == 1 && a < size) printf("0x%08x\n", blob.words[a / 4]);
        else if (sscanf(line, "show %ux%u %u %u %15s", &a, &b, &pitch, &offset, picture) == 5)
            say(show_blob(&blob, a, b, pitch, offset, picture), "shown");
        else puts("what?");
    }
}

void blobs(uint32_t count, uint64_t size, uint32_t id) {
    int fd = open_card();
    uint32_t *handles = calloc(count, sizeof *handles);
    volatile uint32_t **words = calloc(count, sizeof *words);
    if (!handles || !words) fail("calloc");
    // All of them; then every other one goes and comes again.
    for (uint32_t start = 0, step = 1; step <= 2; start = 1, step++) {
        for (uint32_t index = start; index < count; index += step) {
            if (create_blob(fd, BLOB_MEM_HOST3D, BLOB_FLAG_MAPPABLE, id, size, &handles[index])) fail("create");
            words[index] = map_blob(fd, handles[index], size);
            if (!words[index]) fail("map");
        }
        // They are the same memory: what is written through one is read through the next.
        for (uint32_t index = 0; index < count; index++) {
            uint32_t place = index % (uint32_t)(size / 4);
            words[index][place] = word(index, step);
            if (words[(index + 1) % count][place] != word(index, step)) errno = EIO, fail("other bytes");
        }
        printf("mapped %u\n", count);
        for (uint32_t index = 1; step == 1 && index < count; index += 2)
            if (munmap((void *)words[index], size) || close_handle(fd, handles[index])) fail("unmap");
    }
    wait_for_end_of_input();
}
