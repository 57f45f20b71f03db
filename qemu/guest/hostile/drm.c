// Through the driver, which lets much through that nobody would ask for.
#include "hostile.h"

#include <drm_fourcc.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <virtgpu_drm.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

enum {
    most_objects = 1100,         // More than the helper's 1024 resources.
    most_bytes = 160 << 20,      // The guest would run out of memory before the helper did.
    most_of_one = 40 << 20,
};

typedef struct {
    uint32_t handle, framebuffer, width, height;
    uint64_t size;
} Object;

static struct {
    int fd;
    uint32_t connector, crtc;
    Object objects[most_objects];
    uint32_t count;
    uint64_t bytes, calls, refused, created, flips;
} card;

/// Counts a call and passes its result on.
static int called(int result) {
    card.calls++;
    card.refused += result != 0;
    return result;
}

static void open_card(void) {
    for (int index = 0; index < 16; index++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/dri/card%d", index);
        card.fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (card.fd < 0) continue;
        drmVersion *version = drmGetVersion(card.fd);
        int found = version && !strcmp(version->name, "virtio_gpu");
        drmFreeVersion(version);
        if (found) {
            drmModeRes *resources = drmModeGetResources(card.fd);
            if (!resources || !resources->count_connectors || !resources->count_crtcs) fail("no output");
            card.connector = resources->connectors[0];
            card.crtc = resources->crtcs[0];
            drmModeFreeResources(resources);
            return;
        }
        close(card.fd);
    }
    errno = ENODEV;
    fail("no virtio_gpu card");
}

static Object *any(void) { return card.count ? &card.objects[chance(card.count)] : NULL; }

static void keep(uint32_t handle, uint32_t width, uint32_t height, uint64_t size) {
    card.objects[card.count++] = (Object){.handle = handle, .width = width, .height = height, .size = size};
    card.bytes += size;
    card.created++;
}

static int has_room(uint64_t size) {
    return card.count < most_objects && size <= most_of_one && card.bytes + size <= most_bytes;
}

static void make_dumb(void) {
    static const uint32_t bits[] = {32, 32, 32, 32, 24, 16, 8, 1, 0, 64};
    struct drm_mode_create_dumb create = {.bpp = bits[chance(10)]};
    switch (chance(4)) {
        case 0: create.width = 1 + chance(64), create.height = 1 + chance(64); break;
        case 1: create.width = 1 + chance(4096), create.height = 1 + chance(2200); break;
        case 2: create.width = 1024, create.height = 768; break;
        default: create.width = wild(), create.height = wild(); break;
    }
    uint64_t size = (uint64_t)create.width * create.height * ((create.bpp + 7) / 8);
    // What the kernel refuses by itself needs no room.
    if (!has_room(size) && size < UINT32_MAX) return;
    if (!called(drmIoctl(card.fd, DRM_IOCTL_MODE_CREATE_DUMB, &create)))
        keep(create.handle, create.width, create.height, create.size);
}

/// A resource whose image need not fit its memory.
static void make_resource(void) {
    struct drm_virtgpu_resource_create create = {
        .target = one_in(8) ? wild() : 2, .format = one_in(3) ? wild() : 1 + chance(140), .depth = 1,
        .width = one_in(3) ? wild() : 1 + chance(2048), .height = one_in(3) ? wild() : 1 + chance(2048),
        .array_size = 1, .size = 1 + chance(one_in(4) ? most_of_one : 1 << 16), .stride = wild(), .flags = one_in(8)};
    if (has_room(create.size) && !called(drmIoctl(card.fd, DRM_IOCTL_VIRTGPU_RESOURCE_CREATE, &create)))
        keep(create.bo_handle, create.width, create.height, create.size);
}

static void add_framebuffer(Object *object) {
    if (object->framebuffer) return;
    static const uint32_t formats[] = {DRM_FORMAT_XRGB8888, DRM_FORMAT_ARGB8888, DRM_FORMAT_BGRX8888,
                                       DRM_FORMAT_RGB565, DRM_FORMAT_NV12};
    uint32_t handles[4] = {object->handle}, pitches[4] = {object->width * 4}, offsets[4] = {0};
    if (one_in(8)) pitches[0] = wild();
    if (one_in(8)) offsets[0] = wild();
    called(drmModeAddFB2(card.fd, one_in(8) ? wild() : object->width, one_in(8) ? wild() : object->height,
                         formats[one_in(4) ? chance(5) : 0], handles, pitches, offsets, &object->framebuffer, 0));
}

static void set_mode(const Object *object) {
    uint32_t width = object->width, height = object->height;
    if (one_in(4)) width = 1 + chance(4096), height = 1 + chance(4096);
    drmModeModeInfo mode = {.hdisplay = width, .hsync_start = width + 8, .hsync_end = width + 16, .htotal = width + 32,
                            .vdisplay = height, .vsync_start = height + 1, .vsync_end = height + 2,
                            .vtotal = height + 4, .vrefresh = 60, .clock = one_in(8) ? wild() : 65000};
    uint32_t connector = card.connector;
    int off = one_in(8);
    called(drmModeSetCrtc(card.fd, card.crtc, off ? 0 : object->framebuffer, one_in(4) ? wild() : 0,
                          one_in(4) ? wild() : 0, off ? NULL : &connector, !off, off ? NULL : &mode));
}

static void flip(const Object *object) {
    if (!called(drmModePageFlip(card.fd, card.crtc, object->framebuffer, DRM_MODE_PAGE_FLIP_EVENT, NULL))) card.flips++;
    char events[1024];
    struct pollfd event = {.fd = card.fd, .events = POLLIN};
    while (poll(&event, 1, 0) > 0 && read(card.fd, events, sizeof events) > 0) {}
}

static void make_dirty(const Object *object) {
    drmModeClip clips[8];
    for (int index = 0; index < 8; index++)
        clips[index] = (drmModeClip){.x1 = wild(), .y1 = wild(), .x2 = wild(), .y2 = wild()};
    called(drmModeDirtyFB(card.fd, object->framebuffer, clips, one_in(8) ? 0 : 1 + chance(8)));
}

static void move_cursor(const Object *object) {
    if (one_in(3)) called(drmModeSetCursor2(card.fd, card.crtc, one_in(4) ? 0 : object->handle, one_in(4) ? wild() : 64,
                                            one_in(4) ? wild() : 64, (int)wild(), (int)wild()));
    called(drmModeMoveCursor(card.fd, card.crtc, (int)wild(), (int)wild()));
}

static void transfer(const Object *object) {
    struct drm_virtgpu_3d_transfer_to_host transfer = {
        .bo_handle = object->handle, .level = one_in(4) ? wild() : 0, .offset = one_in(2) ? wild() : 0,
        .box = {.x = one_in(2) ? wild() : 0, .y = one_in(2) ? wild() : 0, .w = one_in(2) ? wild() : object->width,
                .h = one_in(2) ? wild() : object->height, .d = 1}};
    called(drmIoctl(card.fd, one_in(4) ? DRM_IOCTL_VIRTGPU_TRANSFER_FROM_HOST : DRM_IOCTL_VIRTGPU_TRANSFER_TO_HOST,
                    &transfer));
}

static void ask_virtgpu(const Object *object) {
    uint64_t value = 0;
    char bytes[256] = {0};
    uint32_t handle = object->handle;
    switch (chance(5)) {
        case 0: {
            struct drm_virtgpu_getparam parameter = {.param = wild(), .value = (uintptr_t)&value};
            called(drmIoctl(card.fd, DRM_IOCTL_VIRTGPU_GETPARAM, &parameter));
            break;
        }
        case 1: {
            struct drm_virtgpu_get_caps caps = {.cap_set_id = wild(), .addr = (uintptr_t)bytes, .size = sizeof bytes};
            called(drmIoctl(card.fd, DRM_IOCTL_VIRTGPU_GET_CAPS, &caps));
            break;
        }
        case 2: {
            struct drm_virtgpu_3d_wait wait = {.handle = handle, .flags = VIRTGPU_WAIT_NOWAIT};
            called(drmIoctl(card.fd, DRM_IOCTL_VIRTGPU_WAIT, &wait));
            break;
        }
        case 3: {
            struct drm_virtgpu_execbuffer execute = {.size = chance(sizeof bytes), .command = (uintptr_t)bytes,
                                                     .bo_handles = (uintptr_t)&handle, .num_bo_handles = chance(2)};
            called(drmIoctl(card.fd, DRM_IOCTL_VIRTGPU_EXECBUFFER, &execute));
            break;
        }
        default: {
            int dmabuf = -1;  // The driver asks for a UUID where the device offers them.
            if (!called(drmPrimeHandleToFD(card.fd, handle, DRM_CLOEXEC, &dmabuf))) close(dmabuf);
        }
    }
}

static void draw(const Object *object) {
    struct drm_mode_map_dumb map = {.handle = object->handle};
    if (called(drmIoctl(card.fd, DRM_IOCTL_MODE_MAP_DUMB, &map))) return;
    void *pixels = mmap(NULL, object->size, PROT_READ | PROT_WRITE, MAP_SHARED, card.fd, (off_t)map.offset);
    if (pixels == MAP_FAILED) return;
    memset(pixels, (int)chance(256), object->size < 1 << 20 ? object->size : 1 << 20);
    munmap(pixels, object->size);
}

/// In either order, whatever still shows it.
static void destroy(Object *object) {
    struct drm_mode_destroy_dumb destroy = {.handle = object->handle};
    int framebuffer_first = one_in(2);
    if (framebuffer_first && object->framebuffer) called(drmModeRmFB(card.fd, object->framebuffer));
    called(drmIoctl(card.fd, DRM_IOCTL_MODE_DESTROY_DUMB, &destroy));
    if (!framebuffer_first && object->framebuffer) called(drmModeRmFB(card.fd, object->framebuffer));
    card.bytes -= object->size;
    *object = card.objects[--card.count];
}

static void act(void) {
    uint32_t choice = chance(100);
    if (choice < 14) return make_dumb();
    if (choice < 20) return make_resource();
    Object *object = any();
    if (!object) return;
    if (choice < 32) add_framebuffer(object);
    else if (choice < 44) set_mode(object);
    else if (choice < 56) flip(object);
    else if (choice < 64) make_dirty(object);
    else if (choice < 70) move_cursor(object);
    else if (choice < 78) transfer(object);
    else if (choice < 84) ask_virtgpu(object);
    else if (choice < 86) draw(object);
    else destroy(object);
}

/// As many resources as there can be, all at once.
static void fill_quota(void) {
    struct drm_mode_create_dumb create = {.width = 16, .height = 16, .bpp = 32};
    while (has_room(4096) && !called(drmIoctl(card.fd, DRM_IOCTL_MODE_CREATE_DUMB, &create)))
        keep(create.handle, 16, 16, create.size);
}

void hostile_drm(double seconds) {
    open_card();
    double end = now() + seconds;
    while (now() < end) {
        act();
        if (one_in(3000)) fill_quota();
        if (one_in(2000)) {  // All is given back at once, by the kernel.
            close(card.fd);
            card.count = 0, card.bytes = 0;
            open_card();
        }
        if (is_time_to_speak())
            printf("drm: %lu calls, %lu refused, %lu buffers, %u live, %lu flips\n", card.calls, card.refused,
                   card.created, card.count, card.flips);
    }
    printf("drm done: %lu calls, %lu refused, %lu buffers, %lu flips\n", card.calls, card.refused, card.created,
           card.flips);
}
