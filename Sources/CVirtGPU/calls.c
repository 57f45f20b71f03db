#include "CVirtGPU.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/ioctl.h>

// Laid out as in the kernel's drm.h, virtgpu_drm.h and dma-heap.h, which on older systems lack blobs, or are missing.
struct vg_version {
  int major, minor, patch;
  size_t name_length;
  char *name;
  size_t date_length;
  char *date;
  size_t description_length;
  char *description;
};
struct vg_gem_close {
  uint32_t handle, padding;
};
struct vg_prime {
  uint32_t handle, flags;
  int32_t fd;
};
struct vg_getparam {
  uint64_t param, value;
};
struct vg_map_arguments {
  uint64_t offset;
  uint32_t handle, padding;
};
struct vg_resource_create {
  uint32_t target, format, bind, width, height, depth, array_size, last_level, samples, flags;
  uint32_t handle, resource, size, stride;
};
struct vg_resource_info_arguments {
  uint32_t handle, resource, size, blob_memory;
};
struct vg_resource_create_blob {
  uint32_t memory, flags, handle, resource;
  uint64_t size;
  uint32_t padding, command_size;
  uint64_t command, blob;
};
struct vg_heap_allocation {
  uint64_t length;
  uint32_t fd, fd_flags;
  uint64_t heap_flags;
};
static_assert(sizeof(struct vg_version) == 12 + 4 + 6 * 8, "drm_version, of 64 bits");
static_assert(sizeof(struct vg_gem_close) == 8 && sizeof(struct vg_prime) == 12, "drm_gem_close, drm_prime_handle");
static_assert(sizeof(struct vg_getparam) == 16 && sizeof(struct vg_map_arguments) == 16, "drm_virtgpu_*");
static_assert(sizeof(struct vg_resource_create) == 56, "drm_virtgpu_resource_create");
static_assert(sizeof(struct vg_resource_info_arguments) == 16, "drm_virtgpu_resource_info");
static_assert(sizeof(struct vg_resource_create_blob) == 48, "drm_virtgpu_resource_create_blob");
static_assert(sizeof(struct vg_heap_allocation) == 24, "dma_heap_allocation_data");

// Commands of a driver begin at 0x40.
#define VG_VERSION _IOWR('d', 0x00, struct vg_version)
#define VG_GEM_CLOSE _IOW('d', 0x09, struct vg_gem_close)
#define VG_HANDLE_TO_FD _IOWR('d', 0x2d, struct vg_prime)
#define VG_FD_TO_HANDLE _IOWR('d', 0x2e, struct vg_prime)
#define VG_MAP _IOWR('d', 0x40 + 0x01, struct vg_map_arguments)
#define VG_GETPARAM _IOWR('d', 0x40 + 0x03, struct vg_getparam)
#define VG_RESOURCE_CREATE _IOWR('d', 0x40 + 0x04, struct vg_resource_create)
#define VG_RESOURCE_INFO _IOWR('d', 0x40 + 0x05, struct vg_resource_info_arguments)
#define VG_RESOURCE_CREATE_BLOB _IOWR('d', 0x40 + 0x0a, struct vg_resource_create_blob)
#define VG_HEAP_ALLOC _IOWR('H', 0x0, struct vg_heap_allocation)

enum { TARGET_2D = 2, FORMAT_B8G8R8X8 = 2, BLOB_MEMORY_GUEST = 1, BLOB_MEMORY_HOST3D = 2, BLOB_MAPPABLE = 1, BLOB_SHAREABLE = 2 };

int vg_driver(int fd, char *name, size_t capacity) {
  struct vg_version version = {.name_length = capacity, .name = name};
  int result = ioctl(fd, VG_VERSION, &version);
  if (result < 0)
    return result;
  return (int)(version.name_length < capacity ? version.name_length : capacity);
}

int vg_get_param(int fd, uint64_t param, int *value) {
  struct vg_getparam arguments = {.param = param, .value = (uintptr_t)value};
  return ioctl(fd, VG_GETPARAM, &arguments);
}

int vg_create_2d(int fd, uint32_t width, uint32_t height, uint32_t size, uint32_t *handle, uint32_t *resource) {
  struct vg_resource_create create = {.target = TARGET_2D, .format = FORMAT_B8G8R8X8, .width = width, .height = height,
                                      .depth = 1, .array_size = 1, .size = size, .stride = width * 4};
  int result = ioctl(fd, VG_RESOURCE_CREATE, &create);
  *handle = create.handle;
  *resource = create.resource;
  return result;
}

static int create_blob(int fd, struct vg_resource_create_blob arguments, uint32_t *handle, uint32_t *resource) {
  arguments.flags = BLOB_MAPPABLE | BLOB_SHAREABLE;
  int result = ioctl(fd, VG_RESOURCE_CREATE_BLOB, &arguments);
  *handle = arguments.handle;
  *resource = arguments.resource;
  return result;
}

int vg_create_blob(int fd, uint64_t size, uint32_t *handle, uint32_t *resource) {
  return create_blob(fd, (struct vg_resource_create_blob){.memory = BLOB_MEMORY_GUEST, .size = size}, handle, resource);
}

int vg_create_host_blob(int fd, uint64_t blob, uint64_t size, uint32_t *handle, uint32_t *resource) {
  return create_blob(fd, (struct vg_resource_create_blob){.memory = BLOB_MEMORY_HOST3D, .size = size, .blob = blob}, handle,
                     resource);
}

int vg_resource_info(int fd, uint32_t handle, uint32_t *resource, uint32_t *size) {
  struct vg_resource_info_arguments info = {.handle = handle};
  int result = ioctl(fd, VG_RESOURCE_INFO, &info);
  *resource = info.resource;
  *size = info.size;
  return result;
}

int vg_map(int fd, uint32_t handle, uint64_t *offset) {
  struct vg_map_arguments map = {.handle = handle};
  int result = ioctl(fd, VG_MAP, &map);
  *offset = map.offset;
  return result;
}

int vg_import(int fd, int dmabuf, uint32_t *handle) {
  struct vg_prime prime = {.fd = dmabuf};
  int result = ioctl(fd, VG_FD_TO_HANDLE, &prime);
  *handle = prime.handle;
  return result;
}

int vg_export(int fd, uint32_t handle) {
  struct vg_prime prime = {.handle = handle, .flags = O_CLOEXEC | O_RDWR, .fd = -1};
  int result = ioctl(fd, VG_HANDLE_TO_FD, &prime);
  return result < 0 ? result : prime.fd;
}

int vg_close(int fd, uint32_t handle) {
  struct vg_gem_close arguments = {.handle = handle};
  return ioctl(fd, VG_GEM_CLOSE, &arguments);
}

int vg_heap_alloc(int heap, uint64_t size) {
  struct vg_heap_allocation allocation = {.length = size, .fd_flags = O_CLOEXEC | O_RDWR};
  int result = ioctl(heap, VG_HEAP_ALLOC, &allocation);
  return result < 0 ? result : (int)allocation.fd;
}
