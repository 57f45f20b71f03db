// Buffers of the guest that are not its virtio-gpu card's: descriptors of dma-bufs, or negative.
#pragma once
#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/// Of the system heap.
static inline int heap_buffer(uint64_t size) {
    int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
    struct dma_heap_allocation_data data = {.len = size, .fd_flags = O_RDWR | O_CLOEXEC};
    int result = heap < 0 ? -1 : ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);
    if (heap >= 0) close(heap);
    return result < 0 ? -1 : (int)data.fd;
}

/// Of a memfd, by the guest's own udmabuf.
static inline int memfd_buffer(uint64_t size) {
    int memfd = memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
    struct udmabuf_create create = {.memfd = (uint32_t)memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .size = size};
    int is_ready = memfd >= 0 && device >= 0 && !ftruncate(memfd, (off_t)size)
                   && !fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK);
    int buffer = is_ready ? ioctl(device, UDMABUF_CREATE, &create) : -1;
    if (memfd >= 0) close(memfd);
    if (device >= 0) close(device);
    return buffer;
}
