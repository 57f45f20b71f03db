// What libdrm's header of the virtio-gpu driver leaves out in Debian 12: the kernel's drm/virtgpu_drm.h has it.
#pragma once
#include <virtgpu_drm.h>

enum {
    PARAM_RESOURCE_BLOB = 3,
    PARAM_HOST_VISIBLE = 4,
    PARAM_CROSS_DEVICE = 5,
    PARAM_CONTEXT_INIT = 6,

    BLOB_MEM_GUEST = 1,
    BLOB_MEM_HOST3D = 2,

    BLOB_FLAG_MAPPABLE = 1,
    BLOB_FLAG_SHAREABLE = 2,
    BLOB_FLAG_CROSS_DEVICE = 4,

    CONTEXT_PARAM_NUM_RINGS = 2,
};

struct create_blob {
    uint32_t blob_mem, blob_flags, bo_handle, res_handle;
    uint64_t size;
    uint32_t pad, cmd_size;
    uint64_t cmd, blob_id;
};

struct context_parameter {
    uint64_t param, value;
};

struct context_init {
    uint32_t num_params, pad;
    uint64_t ctx_set_params;
};

#define IOCTL_CREATE_BLOB DRM_IOWR(DRM_COMMAND_BASE + 0x0a, struct create_blob)
#define IOCTL_CONTEXT_INIT DRM_IOWR(DRM_COMMAND_BASE + 0x0b, struct context_init)
