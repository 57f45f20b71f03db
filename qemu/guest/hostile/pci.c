#include "pci.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hostile.h"

static char directory[128];  // of the card, in sysfs

static int open_file(const char *name, int flags) {
    char path[192];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) fail(path);
    return fd;
}

static uint32_t number_in(const char *name) {
    char text[32] = {0};
    int fd = open_file(name, O_RDONLY);
    if (read(fd, text, sizeof text - 1) < 1) fail(name);
    close(fd);
    unsigned number = 0;
    sscanf(text, "%x", &number);
    return number;
}

static void find_card(void) {
    glob_t found;
    if (glob("/sys/bus/pci/devices/*", 0, NULL, &found)) fail("/sys/bus/pci/devices");
    for (size_t index = 0; index < found.gl_pathc; index++) {
        snprintf(directory, sizeof directory, "%s", found.gl_pathv[index]);
        // Virtio 1.3, 4.1.2: the vendor, and 0x1040 and the kind of device.
        if (number_in("vendor") == 0x1af4 && number_in("device") == 0x1040 + VIRTIO_ID_GPU) {
            globfree(&found);
            return;
        }
    }
    errno = ENODEV;
    fail("no virtio-gpu on the PCI bus");
}

static void unbind(void) {
    char path[192];
    snprintf(path, sizeof path, "%s/driver/unbind", directory);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;  // It has no driver.
    const char *name = strrchr(directory, '/') + 1;
    if (write(fd, name, strlen(name)) < 0) fail("unbind");
    close(fd);
}

static volatile uint8_t *map_bar(const struct virtio_pci_cap *capability) {
    static volatile uint8_t *bars[6];
    if (capability->bar > 5) errno = EINVAL, fail("a capability's BAR");
    volatile uint8_t **bar = &bars[capability->bar];
    if (!*bar) {
        char name[16];
        snprintf(name, sizeof name, "resource%u", capability->bar);
        int fd = open_file(name, O_RDWR);
        off_t size = lseek(fd, 0, SEEK_END);
        void *address = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (address == MAP_FAILED) fail(name);
        close(fd);
        *bar = address;
    }
    return *bar + capability->offset;
}

void let_master(const Card *card, int is_master) {
    uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE | (is_master ? PCI_COMMAND_MASTER : 0);
    if (pwrite(card->config, &command, sizeof command, PCI_COMMAND) != sizeof command) fail("the command register");
}

Card take_card(void) {
    find_card();
    unbind();
    Card card = {.config = open_file("config", O_RDWR)};
    let_master(&card, 1);
    uint8_t place = 0;
    if (pread(card.config, &place, 1, PCI_CAPABILITY_LIST) != 1) fail("config");
    for (int steps = 0; place && steps < 48; steps++) {
        struct virtio_pci_notify_cap capability = {0};
        if (pread(card.config, &capability, sizeof capability, place) != sizeof capability) fail("config");
        if (capability.cap.cap_vndr == PCI_CAP_ID_VNDR) {
            switch (capability.cap.cfg_type) {
                case VIRTIO_PCI_CAP_COMMON_CFG: card.common = (volatile void *)map_bar(&capability.cap); break;
                case VIRTIO_PCI_CAP_DEVICE_CFG: card.device = map_bar(&capability.cap); break;
                case VIRTIO_PCI_CAP_NOTIFY_CFG:
                    card.notify = map_bar(&capability.cap);
                    card.notify_multiplier = capability.notify_off_multiplier;
            }
        }
        place = capability.cap.cap_next;
    }
    errno = ENODEV;
    if (!card.common || !card.device || !card.notify) fail("the card's registers");
    return card;
}

void *huge_memory(uint64_t *physical_address) {
    static int count;
    FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");
    if (!file || fprintf(file, "%d", ++count) < 0 || fclose(file)) fail("nr_hugepages");
    void *memory = mmap(NULL, huge_page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) fail("a huge page");
    // Documentation/admin-guide/mm/pagemap.rst: one word for each page, bits 0 to 54 the frame's number.
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    off_t place = (off_t)((uintptr_t)memory / (uintptr_t)getpagesize() * sizeof entry);
    if (fd < 0 || pread(fd, &entry, sizeof entry, place) != sizeof entry) fail("/proc/self/pagemap");
    close(fd);
    *physical_address = (entry & ((1ull << 55) - 1)) * (uint64_t)getpagesize();
    errno = EPERM;
    if (!*physical_address) fail("the kernel does not say where memory is");
    return memory;
}
