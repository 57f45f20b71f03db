// Shows a buffer that the guest's card did not make, of a dma-heap or of a memfd, until Enter. The host shows these
// very pages. It wants Linux 6.14 and a card with blob resources; gcc needs $(pkg-config --cflags --libs libdrm).
//   lend-any-buffer heap|udmabuf [/dev/dri/card0]
#define _GNU_SOURCE
#include <drm_fourcc.h>
#include <err.h>
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>
static int make_dmabuf(int of_heap, size_t size) {
    struct dma_heap_allocation_data heap = {.len = size, .fd_flags = O_RDWR};
    if (of_heap) return ioctl(open("/dev/dma_heap/system", O_RDWR), DMA_HEAP_IOCTL_ALLOC, &heap) ? -1 : (int)heap.fd;
    struct udmabuf_create memory = {.memfd = (uint32_t)memfd_create("picture", MFD_ALLOW_SEALING), .size = size};
    if (ftruncate(memory.memfd, size) || fcntl(memory.memfd, F_ADD_SEALS, F_SEAL_SHRINK)) return -1;
    return ioctl(open("/dev/udmabuf", O_RDWR), UDMABUF_CREATE, &memory);
}
int main(int argc, char **argv) {
    int card = open(argc > 2 ? argv[2] : "/dev/dri/card0", O_RDWR);
    drmModeRes *outputs = drmModeGetResources(card);
    drmModeConnector *screen = outputs ? drmModeGetConnector(card, outputs->connectors[0]) : NULL;
    if (!screen || !screen->count_modes) err(1, "no screen");
    drmModeModeInfo mode = screen->modes[0];
    uint32_t pitch[4] = {(mode.hdisplay * 4u + 255) / 256 * 256}, handle[4] = {0}, offset[4] = {0}, framebuffer;
    size_t size = ((size_t)pitch[0] * mode.vdisplay + 4095) / 4096 * 4096, line = pitch[0] / 4;
    int dmabuf = make_dmabuf(argc > 1 && *argv[1] == 'h', size);
    if (dmabuf < 0 || drmPrimeFDToHandle(card, dmabuf, &handle[0])) err(1, "making and importing the buffer");
    uint32_t *pixels = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
    if (pixels == MAP_FAILED) err(1, "mapping the buffer");
    for (size_t i = 0; i < size / 4; i++) pixels[i] = 0x01000193u * (uint32_t)(i % line + i / line * 0x10001) & 0xffffffu;
    if (drmModeAddFB2(card, mode.hdisplay, mode.vdisplay, DRM_FORMAT_XRGB8888, handle, pitch, offset, &framebuffer, 0)
        || drmModeSetCrtc(card, outputs->crtcs[0], framebuffer, 0, 0, &screen->connector_id, 1, &mode)) err(1, "show");
    printf("shown\n"), fflush(stdout), getchar();
}
