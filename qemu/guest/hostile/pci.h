// The card without its driver: registers, and memory whose physical addresses are known.
#pragma once
#include <linux/virtio_pci.h>
#include <stdint.h>

enum { huge_page = 2 << 20 };

typedef struct {
    volatile struct virtio_pci_common_cfg *common;
    volatile uint8_t *device;  // virtio_gpu_config
    volatile uint8_t *notify;
    uint32_t notify_multiplier;
    int config;  // PCI configuration space
} Card;

/// Takes the card from its driver and maps its registers.
Card take_card(void);

/// Lets the card read and write memory, or not; it does not interrupt.
void let_master(const Card *card, int is_master);

/// One huge page, which does not move.
void *huge_memory(uint64_t *physical_address);
