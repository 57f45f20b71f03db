// The calls of the virtio-gpu driver, of DRM and of dma-heaps that the guest's agent needs. One call each, no logic;
// results and errno are the call's own.
#ifndef CVIRTGPU_H
#define CVIRTGPU_H

#include <stddef.h>
#include <stdint.h>

// VIRTGPU_PARAM_*
static const uint64_t VG_PARAM_3D_FEATURES = 1;
static const uint64_t VG_PARAM_RESOURCE_BLOB = 3;

// The name of a DRM device's driver, at most `capacity` bytes without a NUL; the result is its length.
int vg_driver(int fd, char *name, size_t capacity);
int vg_get_param(int fd, uint64_t param, int *value);
// A 2D resource of four bytes a pixel with memory of `size` bytes.
int vg_create_2d(int fd, uint32_t width, uint32_t height, uint32_t size, uint32_t *handle, uint32_t *resource);
// A blob of guest memory that can be mapped and shared.
int vg_create_blob(int fd, uint64_t size, uint32_t *handle, uint32_t *resource);
// Memory that the host offers as blob number `blob`, to be mapped and shared.
int vg_create_host_blob(int fd, uint64_t blob, uint64_t size, uint32_t *handle, uint32_t *resource);
int vg_resource_info(int fd, uint32_t handle, uint32_t *resource, uint32_t *size);
// The offset of the buffer in the device file, for mmap.
int vg_map(int fd, uint32_t handle, uint64_t *offset);
int vg_import(int fd, int dmabuf, uint32_t *handle);
// The result is a dma-buf, close-on-exec, for reading and writing.
int vg_export(int fd, uint32_t handle);
int vg_close(int fd, uint32_t handle);
// The result is a dma-buf of a dma-heap.
int vg_heap_alloc(int heap, uint64_t size);

#endif
