// Kernel interfaces that Swift cannot reach through Glibc: variadic calls, macros, and structures with a flexible tail.
// One call each, no logic; results and errno are the call's own.
#ifndef CUDMABUF_H
#define CUDMABUF_H

#include <stddef.h>
#include <stdint.h>

// Values that the uapi headers define as macros; calls.c asserts each one.
static const uint32_t CU_POLLOUT = 0x4;

static const uint32_t CU_MFD_CLOEXEC = 0x1;
static const uint32_t CU_MFD_ALLOW_SEALING = 0x2;
static const uint32_t CU_MFD_HUGETLB = 0x4;
static const uint32_t CU_MFD_HUGE_SHIFT = 26;

static const uint32_t CU_F_SEAL_SEAL = 0x1;
static const uint32_t CU_F_SEAL_SHRINK = 0x2;
static const uint32_t CU_F_SEAL_GROW = 0x4;
static const uint32_t CU_F_SEAL_WRITE = 0x8;
static const uint32_t CU_F_SEAL_FUTURE_WRITE = 0x10;

static const uint64_t CU_DMA_BUF_SYNC_READ = 1;
static const uint64_t CU_DMA_BUF_SYNC_WRITE = 2;
static const uint64_t CU_DMA_BUF_SYNC_START = 0;
static const uint64_t CU_DMA_BUF_SYNC_END = 4;
static const size_t CU_DMA_BUF_NAME_LEN = 32;

static const uint32_t CU_TMPFS_MAGIC = 0x01021994;
static const uint32_t CU_HUGETLBFS_MAGIC = 0x958458f6;
static const uint32_t CU_DMA_BUF_MAGIC = 0x444d4142;

// Commands and request numbers, for filters that compare arguments with them.
static const uint32_t CU_F_ADD_SEALS = 1033;
static const uint32_t CU_F_GET_SEALS = 1034;
static const uint32_t CU_UDMABUF_CREATE = 0x40187542;
static const uint32_t CU_UDMABUF_CREATE_LIST = 0x40087543;
static const uint32_t CU_DMA_BUF_IOCTL_SYNC = 0x40086200;
static const uint32_t CU_DMA_BUF_SET_NAME = 0x40086201;
static const uint32_t CU_DMA_BUF_EXPORT_SYNC_FILE = 0xc0086202;
static const uint32_t CU_DMA_BUF_IMPORT_SYNC_FILE = 0x40086203;

// One item of UDMABUF_CREATE_LIST, laid out as struct udmabuf_create_item.
struct cu_udmabuf_item {
  uint32_t memfd;
  uint32_t padding;
  uint64_t offset;
  uint64_t size;
};
// The bytes before the first item: struct udmabuf_create_list without its tail.
static const size_t CU_UDMABUF_LIST_HEADER = 8;

int cu_memfd_create(const char *name, uint32_t flags);
int cu_get_seals(int fd);
int cu_add_seals(int fd, uint32_t seals);
int cu_dup(int fd);
// `fd` replaces the descriptor of this number.
int cu_dup_over(int fd, int number);
int cu_truncate(int fd, int64_t length);
int cu_set_nonblocking(int fd);
int cu_pollable(int fd, uint32_t events, int milliseconds);
// The kind of file system that holds an open file (a magic number of linux/magic.h), and its block size in bytes.
int cu_file_system(int fd, uint32_t *kind, uint64_t *block_size);
int cu_udmabuf_create(int device, int memfd, uint64_t offset, uint64_t size);
// `list` starts with CU_UDMABUF_LIST_HEADER bytes, which this call fills in, and `count` items.
int cu_udmabuf_create_list(int device, void *list, uint32_t count);
int cu_dma_buf_sync(int fd, uint64_t flags);
int cu_dma_buf_set_name(int fd, const char *name);
int cu_dma_buf_export_sync_file(int fd, uint32_t flags);
int cu_dma_buf_import_sync_file(int fd, uint32_t flags, int sync_file);

#endif
