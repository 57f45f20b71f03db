#define _GNU_SOURCE
#include "CUdmabuf.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>

// Older headers do not have the sync_file calls; the values are the kernel's ABI.
struct cu_sync_file {
  uint32_t flags;
  int32_t fd;
};
#define CU_EXPORT_SYNC_FILE _IOWR('b', 2, struct cu_sync_file)
#define CU_IMPORT_SYNC_FILE _IOW('b', 3, struct cu_sync_file)

static_assert(CU_POLLOUT == POLLOUT, "poll events");
static_assert(MFD_CLOEXEC == 0x1 && MFD_ALLOW_SEALING == 0x2 && MFD_HUGETLB == 0x4, "memfd flags");
static_assert(MFD_HUGE_SHIFT == 26, "memfd huge page shift");
static_assert(F_SEAL_SEAL == 0x1 && F_SEAL_SHRINK == 0x2 && F_SEAL_GROW == 0x4, "seals");
static_assert(F_SEAL_WRITE == 0x8 && F_SEAL_FUTURE_WRITE == 0x10, "seals");
static_assert(DMA_BUF_SYNC_READ == 1 && DMA_BUF_SYNC_WRITE == 2, "dma-buf sync");
static_assert(DMA_BUF_SYNC_START == 0 && DMA_BUF_SYNC_END == 4, "dma-buf sync");
static_assert(DMA_BUF_NAME_LEN == 32, "dma-buf name");
static_assert(sizeof(struct cu_udmabuf_item) == sizeof(struct udmabuf_create_item), "item size");
static_assert(offsetof(struct cu_udmabuf_item, offset) == offsetof(struct udmabuf_create_item, offset), "item");
static_assert(offsetof(struct cu_udmabuf_item, size) == offsetof(struct udmabuf_create_item, size), "item");
static_assert(offsetof(struct udmabuf_create_list, list) == 8, "list header");
static_assert(CU_TMPFS_MAGIC == TMPFS_MAGIC && CU_HUGETLBFS_MAGIC == HUGETLBFS_MAGIC, "file systems");
static_assert(CU_DMA_BUF_MAGIC == DMA_BUF_MAGIC, "file systems");
static_assert(CU_F_ADD_SEALS == F_ADD_SEALS && CU_F_GET_SEALS == F_GET_SEALS, "commands");
static_assert(CU_UDMABUF_CREATE == UDMABUF_CREATE && CU_UDMABUF_CREATE_LIST == UDMABUF_CREATE_LIST, "ioctls");
static_assert(CU_DMA_BUF_IOCTL_SYNC == DMA_BUF_IOCTL_SYNC && CU_DMA_BUF_SET_NAME == DMA_BUF_SET_NAME_B, "ioctls");
static_assert(CU_DMA_BUF_EXPORT_SYNC_FILE == CU_EXPORT_SYNC_FILE, "ioctls");
static_assert(CU_DMA_BUF_IMPORT_SYNC_FILE == CU_IMPORT_SYNC_FILE, "ioctls");

int cu_memfd_create(const char *name, uint32_t flags) { return memfd_create(name, flags); }
int cu_get_seals(int fd) { return fcntl(fd, F_GET_SEALS); }
int cu_add_seals(int fd, uint32_t seals) { return fcntl(fd, F_ADD_SEALS, (int)seals); }
int cu_dup(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }
int cu_dup_over(int fd, int number) { return dup3(fd, number, O_CLOEXEC); }
int cu_truncate(int fd, int64_t length) { return ftruncate(fd, length); }

int cu_set_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? flags : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int cu_pollable(int fd, uint32_t events, int milliseconds) {
  struct pollfd item = {.fd = fd, .events = (short)events};
  return poll(&item, 1, milliseconds);
}

int cu_file_system(int fd, uint32_t *kind, uint64_t *block_size) {
  struct statfs status;
  if (fstatfs(fd, &status) < 0)
    return -1;
  *kind = (uint32_t)status.f_type;
  *block_size = (uint64_t)status.f_bsize;
  return 0;
}

int cu_udmabuf_create(int device, int memfd, uint64_t offset, uint64_t size) {
  struct udmabuf_create create = {
      .memfd = (uint32_t)memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .offset = offset, .size = size};
  return ioctl(device, UDMABUF_CREATE, &create);
}

int cu_udmabuf_create_list(int device, void *list, uint32_t count) {
  struct udmabuf_create_list *header = list;
  header->flags = UDMABUF_FLAGS_CLOEXEC;
  header->count = count;
  return ioctl(device, UDMABUF_CREATE_LIST, header);
}

int cu_dma_buf_sync(int fd, uint64_t flags) {
  struct dma_buf_sync sync = {.flags = flags};
  return ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

int cu_dma_buf_set_name(int fd, const char *name) { return ioctl(fd, DMA_BUF_SET_NAME_B, name); }

int cu_dma_buf_export_sync_file(int fd, uint32_t flags) {
  struct cu_sync_file sync = {.flags = flags, .fd = -1};
  int result = ioctl(fd, CU_EXPORT_SYNC_FILE, &sync);
  return result < 0 ? result : sync.fd;
}

int cu_dma_buf_import_sync_file(int fd, uint32_t flags, int sync_file) {
  struct cu_sync_file sync = {.flags = flags, .fd = sync_file};
  return ioctl(fd, CU_IMPORT_SYNC_FILE, &sync);
}
