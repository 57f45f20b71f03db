#include "commands.h"

#include <linux/virtio_gpu.h>
#include <string.h>

#include "hostile.h"

enum { page = 4096, huge = 2 << 20, names = 16, most_entries = 200 };

uint64_t image_memory[image_memories];

static struct { uint32_t width, height; } images[names + 1];  // of the resources as they were made

static uint32_t edge_in(uint32_t size) { return size ? chance(size + 1) : 0; }

static struct virtio_gpu_rect rectangle_in(uint32_t name) {
    uint32_t width = images[name].width, height = images[name].height;
    if (one_in(2)) return (struct virtio_gpu_rect){0, 0, width, height};
    uint32_t x = edge_in(width), y = edge_in(height);
    return (struct virtio_gpu_rect){x, y, edge_in(width - x), edge_in(height - y)};
}

#define COMMAND(kind, ...) ((kind){.hdr = header, __VA_ARGS__})
#define PUT(kind, ...)                                                  \
    do {                                                                \
        kind value = COMMAND(kind, __VA_ARGS__);                        \
        memcpy(command.bytes, &value, command.length = sizeof value);   \
    } while (0)

Command make_command(int is_cursor) {
    static const uint32_t formats[] = {1, 2, 3, 4, 67, 68, 121, 134};
    static const uint32_t types[] = {
        VIRTIO_GPU_CMD_GET_DISPLAY_INFO, VIRTIO_GPU_CMD_GET_EDID, VIRTIO_GPU_CMD_RESOURCE_ASSIGN_UUID,
        VIRTIO_GPU_CMD_RESOURCE_UNREF, VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING, VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
        VIRTIO_GPU_CMD_RESOURCE_CREATE_2D, VIRTIO_GPU_CMD_RESOURCE_CREATE_2D, VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
        VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING, VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING, VIRTIO_GPU_CMD_SET_SCANOUT,
        VIRTIO_GPU_CMD_SET_SCANOUT, VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D, VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D,
        VIRTIO_GPU_CMD_RESOURCE_FLUSH, VIRTIO_GPU_CMD_RESOURCE_FLUSH, VIRTIO_GPU_CMD_RESOURCE_FLUSH};
    Command command = {.response_length = sizeof(struct virtio_gpu_ctrl_hdr)};
    uint32_t name = 1 + chance(names);
    struct virtio_gpu_ctrl_hdr header = {.type = types[chance(sizeof types / sizeof *types)]};
    if (one_in(4)) header.flags = VIRTIO_GPU_FLAG_FENCE, header.fence_id = chance(1000);
    if (is_cursor) {
        header.type = one_in(2) ? VIRTIO_GPU_CMD_UPDATE_CURSOR : VIRTIO_GPU_CMD_MOVE_CURSOR;
        PUT(struct virtio_gpu_update_cursor, .pos = {.x = chance(2000), .y = chance(2000)},
            .resource_id = one_in(4) ? 0 : name, .hot_x = chance(64), .hot_y = chance(64));
        return command;
    }
    switch (header.type) {
        case VIRTIO_GPU_CMD_GET_DISPLAY_INFO:
            memcpy(command.bytes, &header, command.length = sizeof header);
            command.response_length = sizeof(struct virtio_gpu_resp_display_info);
            break;
        case VIRTIO_GPU_CMD_GET_EDID:
            PUT(struct virtio_gpu_cmd_get_edid, .scanout = 0);
            command.response_length = sizeof(struct virtio_gpu_resp_edid);
            break;
        case VIRTIO_GPU_CMD_RESOURCE_ASSIGN_UUID:
            PUT(struct virtio_gpu_resource_assign_uuid, .resource_id = name);
            command.response_length = sizeof(struct virtio_gpu_resp_resource_uuid);
            break;
        case VIRTIO_GPU_CMD_RESOURCE_UNREF: PUT(struct virtio_gpu_resource_unref, .resource_id = name); break;
        case VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING:
            PUT(struct virtio_gpu_resource_detach_backing, .resource_id = name);
            break;
        case VIRTIO_GPU_CMD_RESOURCE_CREATE_2D:
            images[name].width = one_in(2) ? 64 : 1 + chance(1280);
            images[name].height = one_in(2) ? 64 : 1 + chance(1024);
            PUT(struct virtio_gpu_resource_create_2d, .resource_id = name, .format = formats[chance(8)],
                .width = images[name].width, .height = images[name].height);
            break;
        case VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING:
            command.entries = 1 + chance(most_entries);
            PUT(struct virtio_gpu_resource_attach_backing, .resource_id = name, .nr_entries = command.entries);
            break;
        case VIRTIO_GPU_CMD_SET_SCANOUT:
            PUT(struct virtio_gpu_set_scanout, .r = rectangle_in(name), .resource_id = one_in(8) ? 0 : name);
            break;
        case VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D: {
            struct virtio_gpu_rect rectangle = rectangle_in(name);
            uint64_t offset = ((uint64_t)rectangle.y * images[name].width + rectangle.x) * 4;
            PUT(struct virtio_gpu_transfer_to_host_2d, .r = rectangle, .resource_id = name,
                .offset = one_in(4) ? chance(1 << 20) : offset);
            break;
        }
        default: PUT(struct virtio_gpu_resource_flush, .r = rectangle_in(name), .resource_id = name);
    }
    return command;
}

void make_entries(void *place, uint32_t entries, int is_right) {
    // Few entries are large ones, so that an image has enough memory either way.
    uint32_t length = entries < 8 ? 1 << 20 : (1 + chance(8)) * page;
    for (uint32_t index = 0; index < entries; index++) {
        uint64_t start = image_memory[chance(image_memories)] + (uint64_t)chance((huge - length) / page + 1) * page;
        struct virtio_gpu_mem_entry entry = {.addr = start, .length = length};
        if (!is_right && one_in(8)) {
            if (one_in(2)) entry.addr = wild_address();
            else if (one_in(2)) entry.addr += 1 + chance(page - 1);
            if (one_in(2)) entry.length = wild();
        }
        memcpy((char *)place + index * sizeof entry, &entry, sizeof entry);
    }
}

void spoil_command(Command *command) {
    for (int count = 1 + (int)chance(3); count; count--) {
        uint32_t value = wild(), place = chance(command->length / 4) * 4;
        switch (chance(8)) {
            case 0: command->length = chance(command->length + 1); break;
            case 1: command->length = command->length + chance(sizeof command->bytes - command->length + 1); break;
            case 2: command->response_length = one_in(2) ? chance(64) : chance(4096); break;
            case 3: command->entries = one_in(4) ? 0 : chance(256); break;
            case 4:  // The kinds are neighbours: 0x100, 0x200 and 0x300.
                value = one_in(2) ? wild() : (1 + chance(3)) << 8 | chance(20);
                memcpy(command->bytes, &value, 4);
                break;
            default: memcpy(command->bytes + place, &value, 4);
        }
        if (command->length < 4) return;
    }
}

uint64_t wild_address(void) {
    switch (chance(6)) {
        case 0: return 0xa0000 + chance(0x20000);                              // the hole below 1 MiB
        case 1: return 0xfe000000 + chance(0x2000000);                         // registers and firmware
        case 2: return (uint64_t)(1 + chance(1 << 20)) << 32;                  // where no memory is
        case 3: return UINT64_MAX - chance(2 * page);                          // overflows
        case 4: return image_memory[chance(image_memories)] | 1ull << (40 + chance(24));
        default: return (uint64_t)1 << 63 | wild64();
    }
}
