// Commands of virtio-gpu, right ones and wrong ones.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Where the guest's memory for images is: huge pages.
enum { image_memories = 3 };
extern uint64_t image_memory[image_memories];

typedef struct {
    uint8_t bytes[128];
    uint32_t length;
    uint32_t entries;          // that follow it, of the size of virtio_gpu_mem_entry
    uint32_t response_length;
} Command;

/// A command that the device may well accept, so that there is something to damage.
Command make_command(int is_cursor);
/// A page list for it, of as many entries as it says; each right if `is_right`.
void make_entries(void *place, uint32_t entries, int is_right);
/// Wrong numbers in the right places, lengths that do not fit, types that do not exist.
void spoil_command(Command *command);
/// An address that is no memory of the guest's, or only partly.
uint64_t wild_address(void);
