// Instead of the driver: split rings (virtio 1.3, 2.7) as no driver writes them.
// What the device may write is always memory of ours, or none: the guest itself is to live.
#include <linux/virtio_config.h>
#include <linux/virtio_gpu.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "hostile.h"
#include "pci.h"

enum {
    queues = 2,
    largest_queue = 256,
    // The huge page that rings and commands are in.
    queue_size = 0x8000, available_offset = 0x2000, used_offset = 0x4000,
    tables = queues * queue_size, table_size = 64 * sizeof(struct vring_desc), slots = 64,
    commands = tables + slots * table_size, slot_size = 0x2000,
    responses = commands + slots * slot_size, response_size = 0x1000,
    long_list = 1 << 20,  // 65536 entries
};

typedef struct { uint32_t place, length; int is_written; } Segment;  // of that huge page

typedef struct {
    uint16_t index, size, available, descriptors;  // descriptors: used by this batch
    volatile uint16_t *doorbell;
    struct vring_desc *table;
    volatile struct vring_avail *available_ring;
    volatile struct vring_used *used_ring;
} Queue;

static Card card;
static uint8_t *memory;
static uint64_t memory_address;
static Queue queue[queues];
static int uses_indirect;
static int is_doubtful;  // Something was done to the device since its start that may keep it from answering.
static struct { uint64_t commands, accepted, refused, batches, resets, stuck, tricks; } count;

// MARK: The device's life

static void reset_device(void) {
    double deadline = now() + 60;
    card.common->device_status = 0;
    while (card.common->device_status) {
        if (now() > deadline) fail("the device does not end its reset");
        sched_yield();
    }
    count.resets++;
}

static uint64_t ring_address(const Queue *q, uint32_t offset) { return memory_address + q->index * queue_size + offset; }

static void set_up_queue(Queue *q, int is_right) {
    volatile struct virtio_pci_common_cfg *common = card.common;
    common->queue_select = q->index;
    uint16_t most = common->queue_size;
    q->size = most < largest_queue ? most : largest_queue;
    if (one_in(4)) while (q->size > 4 && one_in(2)) q->size /= 2;
    common->queue_size = is_right ? q->size : wild();
    uint64_t places[] = {ring_address(q, 0), ring_address(q, available_offset), ring_address(q, used_offset)};
    if (!is_right) places[chance(3)] = one_in(2) ? wild_address() : places[0] + chance(64);
    common->queue_desc_lo = (uint32_t)places[0], common->queue_desc_hi = places[0] >> 32;
    common->queue_avail_lo = (uint32_t)places[1], common->queue_avail_hi = places[1] >> 32;
    common->queue_used_lo = (uint32_t)places[2], common->queue_used_hi = places[2] >> 32;
    q->doorbell = (volatile uint16_t *)(card.notify + common->queue_notify_off * card.notify_multiplier);
    q->table = (struct vring_desc *)(memory + q->index * queue_size);
    q->available_ring = (volatile struct vring_avail *)((uint8_t *)q->table + available_offset);
    q->used_ring = (volatile struct vring_used *)((uint8_t *)q->table + used_offset);
    q->available = 0;
    common->queue_enable = is_right ? 1 : wild();
}

static void start_device(void) {
    volatile struct virtio_pci_common_cfg *common = card.common;
    let_master(&card, 1);
    reset_device();
    memset(memory, 0, tables);
    common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
    common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    common->device_feature_select = 0;
    uint32_t features = common->device_feature & (1u << VIRTIO_GPU_F_EDID | 1u << VIRTIO_GPU_F_RESOURCE_UUID);
    uses_indirect = one_in(2);
    if (uses_indirect) features |= 1u << VIRTIO_RING_F_INDIRECT_DESC;
    if (one_in(2)) features |= 1u << VIRTIO_RING_F_EVENT_IDX;
    if (one_in(8)) features |= wild();
    common->guest_feature_select = 0;
    common->guest_feature = features;
    common->guest_feature_select = 1;
    is_doubtful = one_in(20);
    common->guest_feature = (is_doubtful && one_in(3) ? 0 : 1u << (VIRTIO_F_VERSION_1 - 32)) | (one_in(8) ? wild() : 0);
    common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    for (uint16_t index = 0; index < queues; index++) {
        queue[index].index = index;
        set_up_queue(&queue[index], !is_doubtful);
    }
    common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
                            VIRTIO_CONFIG_S_DRIVER_OK;
}

// MARK: Chains

static void put(struct vring_desc *descriptor, uint64_t address, uint32_t length, uint16_t flags, uint16_t next) {
    *descriptor = (struct vring_desc){.addr = address, .len = length, .flags = flags, .next = next};
}

/// Makes descriptors of segments, in a table of their own or in the queue's.
static void put_chain(Queue *q, const Segment *segments, uint16_t segment_count, uint32_t slot) {
    int is_indirect = uses_indirect && one_in(2);
    struct vring_desc *table = is_indirect ? (struct vring_desc *)(memory + tables + slot * table_size) : q->table;
    uint16_t first = is_indirect ? 0 : q->descriptors, head = q->descriptors;
    for (uint16_t index = 0; index < segment_count; index++) {
        uint16_t flags = (index + 1 < segment_count ? VRING_DESC_F_NEXT : 0)
                         | (segments[index].is_written ? VRING_DESC_F_WRITE : 0);
        put(&table[first + index], memory_address + segments[index].place, segments[index].length, flags,
            first + index + 1);
    }
    if (is_indirect)
        put(&q->table[head], memory_address + tables + slot * table_size, segment_count * sizeof(struct vring_desc),
            VRING_DESC_F_INDIRECT, 0);
    q->descriptors += is_indirect ? 1 : segment_count;
    q->available_ring->ring[q->available++ % q->size] = head;
}

/// Room for the most descriptors that put_command wants.
enum { most_segments = 8 };

static void put_command(Queue *q, uint32_t slot) {
    Command command = make_command(q->index == 1);
    int is_spoilt = one_in(4);
    if (is_spoilt) spoil_command(&command);
    uint32_t place = commands + slot * slot_size, list = place + sizeof command.bytes;
    memcpy(memory + place, command.bytes, sizeof command.bytes);
    if (command.entries && one_in(60)) {  // Far too many, and really there.
        list = long_list;
        command.entries = huge_page / 2 / sizeof(struct virtio_gpu_mem_entry);
        if (one_in(2)) command.entries = 1 + chance(command.entries);
        memcpy(memory + place + sizeof(struct virtio_gpu_ctrl_hdr) + 4, &command.entries, 4);
    }
    make_entries(memory + list, command.entries, !is_spoilt && !one_in(10));

    Segment segments[most_segments];
    uint16_t segment_count = 0;
    uint32_t first = command.length && one_in(4) ? chance(command.length) : 0;
    if (first) segments[segment_count++] = (Segment){place, first, 0};
    segments[segment_count++] = (Segment){place + first, command.length - first, 0};
    if (command.entries) {
        uint32_t bytes = command.entries * sizeof(struct virtio_gpu_mem_entry), done = 0;
        while (segment_count < 6 && one_in(2)) {
            uint32_t piece = chance(bytes - done);
            if (!piece) break;
            segments[segment_count++] = (Segment){list + done, piece, 0};
            done += piece;
        }
        segments[segment_count++] = (Segment){list + done, bytes - done, 0};
    }
    if (command.response_length || !one_in(2))
        segments[segment_count++] = (Segment){responses + slot * response_size, command.response_length, 1};
    *(volatile uint32_t *)(memory + responses + slot * response_size) = 0;
    put_chain(q, segments, segment_count, slot);
    count.commands++;
}

// MARK: Tricks

/// Damages what the batch put into the ring, or the ring itself, before the device is told.
static void trick_ring(Queue *q) {
    struct vring_desc *descriptor = &q->table[chance(q->descriptors ? q->descriptors : 1)];
    struct vring_desc *table = (struct vring_desc *)(memory + tables);
    switch (chance(15)) {
        case 0: descriptor->flags |= VRING_DESC_F_NEXT, descriptor->next = chance(q->descriptors + 1); break;
        case 1: descriptor->flags |= VRING_DESC_F_NEXT, descriptor->next = wild() | q->size; break;
        case 2: descriptor->addr = wild_address(); break;
        case 3: descriptor->len = wild(), descriptor->flags &= ~VRING_DESC_F_WRITE; break;
        case 4: descriptor->flags = wild() & ~VRING_DESC_F_WRITE; break;
        case 5: q->available_ring->ring[chance(q->size)] = wild(); break;
        case 6: q->available += q->size + 1 + chance(1000); break;
        case 7: q->available -= 1 + chance(1000); break;
        case 8:  // a table that leads to itself
            put(descriptor, memory_address + tables, table_size, VRING_DESC_F_INDIRECT, 0);
            put(&table[0], memory_address + tables, table_size, VRING_DESC_F_INDIRECT | chance(2), 0);
            break;
        case 9:  // a table that is a ring
            put(descriptor, memory_address + tables, table_size, VRING_DESC_F_INDIRECT, 0);
            for (uint16_t index = 0; index < 64; index++)
                put(&table[index], memory_address + commands, 16, VRING_DESC_F_NEXT, (index + 1) % 64);
            break;
        case 10: put(descriptor, memory_address + tables, wild(), VRING_DESC_F_INDIRECT | chance(2), wild()); break;
        case 11: put(descriptor, wild_address(), table_size, VRING_DESC_F_INDIRECT, 0); break;
        case 12:  // a chain through the whole ring that starts everywhere
            for (uint16_t index = 0; index < q->size; index++) {
                put(&q->table[index], memory_address + commands, wild() % (1 << 20), VRING_DESC_F_NEXT, index + 1);
                q->available_ring->ring[index] = index;
            }
            q->table[q->size - 1].flags = 0;
            q->available += q->size;
            break;
        case 13: descriptor->flags ^= VRING_DESC_F_NEXT; break;
        default:  // used_event
            q->available_ring->ring[q->size] = wild();
            q->available_ring->flags = wild();
    }
}

/// Does to a running device what is to be done to one that is not.
static void trick_device(Queue *q) {
    volatile struct virtio_pci_common_cfg *common = card.common;
    switch (chance(8)) {
        case 0: common->device_status = 0; break;
        case 1: set_up_queue(q, one_in(2)); break;
        // Without DRIVER_OK: QEMU up to 10.0 makes a second display socket when it is set twice, mixes it up with
        // the first, and waits for ever in its main loop. That is this guest's loss, and nothing of the helper's.
        case 2: common->device_status = wild() & ~VIRTIO_CONFIG_S_DRIVER_OK; break;
        case 3: card.device[chance(16)] = wild(); break;
        case 4: common->guest_feature_select = chance(3), common->guest_feature = wild(); break;
        case 5: let_master(&card, 0); break;
        case 6: common->queue_select = wild(), common->queue_enable = wild(), common->queue_size = wild(); break;
        default:
            for (uint32_t kicks = chance(2000); kicks; kicks--) *q->doorbell = wild();
    }
}

// MARK: Batches

/// Puts some commands into a ring and waits until they are answered.
/// - Returns: false if they are not, as is to be expected after some tricks.
static int run_batch(void) {
    Queue *q = &queue[one_in(5)];
    q->descriptors = 0;
    uint32_t count_of_batch = chance(24) + 1, slot = 0;
    while (slot < count_of_batch && q->descriptors + most_segments <= q->size) put_command(q, slot++);
    int is_trick = one_in(30), is_device_trick = one_in(100);
    count.batches++;
    count.tricks += is_trick + is_device_trick;
    is_doubtful |= is_trick | is_device_trick;
    if (is_trick) trick_ring(q);
    __sync_synchronize();
    q->available_ring->idx = q->available;
    __sync_synchronize();
    *q->doorbell = q->index;
    if (is_device_trick) trick_device(q);
    // While it is at work: what it has read already may be something else the next time.
    if (one_in(4))
        for (int writes = 0; writes < 50; writes++) {
            uint32_t place = commands + chance(slot ? slot : 1) * slot_size + chance(256) * 4, value = wild();
            memcpy(memory + place, &value, sizeof value);
        }
    // A ring that is as it should be is always answered, whatever the commands are: within 1 s, which pages on
    // the screen may take to go back, and what the machine does beside.
    double deadline = now() + (is_doubtful ? 0.05 : 10);
    while (q->used_ring->idx != q->available) {
        if (now() > deadline) {
            count.stuck += !is_doubtful;
            return 0;
        }
        sched_yield();
    }
    for (uint32_t index = 0; index < slot; index++) {
        uint32_t type = *(volatile uint32_t *)(memory + responses + index * response_size);
        count.accepted += type >= VIRTIO_GPU_RESP_OK_NODATA && type < VIRTIO_GPU_RESP_ERR_UNSPEC;
        count.refused += type >= VIRTIO_GPU_RESP_ERR_UNSPEC;
    }
    return 1;
}

static void speak(const char *what) {
    printf("%s: %lu commands, %lu accepted, %lu refused, %lu batches, %lu tricks, %lu resets, %lu stuck\n", what,
           count.commands, count.accepted, count.refused, count.batches, count.tricks, count.resets, count.stuck);
}

void hostile_rings(double seconds) {
    memory = huge_memory(&memory_address);
    for (int index = 0; index < image_memories; index++) huge_memory(&image_memory[index]);
    card = take_card();
    double end = now() + seconds;
    while (now() < end) {
        start_device();
        // A few lives are long, so that there is much to lose.
        for (uint32_t left = one_in(4) ? 400 : chance(60); left && now() < end && run_batch(); left--) {
            if (is_time_to_speak()) speak("rings");
        }
        if (is_time_to_speak()) speak("rings");
    }
    reset_device();
    speak("rings done");
}
