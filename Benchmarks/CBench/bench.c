#define _GNU_SOURCE
#include "CBench.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/udmabuf.h>

extern char **environ;

ssize_t cb_resolve(const struct cb_region *regions, size_t region_count, const struct cb_entry *entries,
                   size_t entry_count, struct cb_range **ranges) {
  struct cb_range *list = NULL;
  size_t count = 0, capacity = 0;
  for (size_t i = 0; i < entry_count; i++) {
    uint64_t address = entries[i].address, end;
    if (entries[i].length == 0 || __builtin_add_overflow(address, entries[i].length, &end))
      goto bad;
    while (address < end) {
      size_t low = 0, high = region_count;
      while (low < high) {
        size_t middle = (low + high) / 2;
        if (regions[middle].start <= address)
          low = middle + 1;
        else
          high = middle;
      }
      if (low == 0)
        goto bad;
      const struct cb_region *region = &regions[low - 1];
      uint64_t skip = address - region->start;
      if (skip >= region->length)
        goto bad;
      uint64_t left = region->length - skip, length = end - address < left ? end - address : left;
      uint64_t offset = region->offset + skip;
      struct cb_range *last = count ? &list[count - 1] : NULL;
      if (last && last->file == region->file && last->offset + last->length == offset) {
        last->length += length;
      } else {
        if (count == capacity) {
          capacity = capacity ? capacity * 2 : 4;
          struct cb_range *longer = realloc(list, capacity * sizeof *list);
          if (!longer)
            goto bad;
          list = longer;
        }
        list[count++] = (struct cb_range){.file = region->file, .offset = offset, .length = length};
      }
      address += length;
    }
  }
  *ranges = list;
  return (ssize_t)count;
bad:
  free(list);
  return -1;
}

int cb_create(int device, const struct cb_range *ranges, size_t count) {
  struct udmabuf_create_list *list = malloc(sizeof *list + count * sizeof list->list[0]);
  if (!list)
    return -1;
  list->flags = UDMABUF_FLAGS_CLOEXEC;
  list->count = (uint32_t)count;
  for (size_t i = 0; i < count; i++)
    list->list[i] = (struct udmabuf_create_item){
        .memfd = ranges[i].file, .offset = ranges[i].offset, .size = ranges[i].length};
  int result = ioctl(device, UDMABUF_CREATE_LIST, list);
  free(list);
  return result;
}

// MARK: shadow

void *cb_map(int file, size_t length) {
  void *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return start == MAP_FAILED ? NULL : start;
}

void cb_unmap(void *start, size_t length) { munmap(start, length); }

void cb_copy(void *target, const void *source, const struct cb_piece *pieces, size_t count) {
  for (size_t i = 0; i < count; i++)
    memcpy((char *)target + pieces[i].to, (const char *)source + pieces[i].from, pieces[i].length);
}

// MARK: queue

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};
struct header {
  uint32_t type, flags;
  uint64_t fence;
  uint32_t context, padding;
};

static void serve(const struct cb_ring *ring) {
  char *memory = mmap(NULL, ring->length, PROT_READ | PROT_WRITE, MAP_SHARED, ring->memory, 0);
  if (memory == MAP_FAILED)
    return;
  uint16_t mask = ring->size - 1, position = 0, done = 0;
  uint16_t *available = (uint16_t *)(memory + ring->available);
  uint16_t *used = (uint16_t *)(memory + ring->used);
  uint16_t *wanted_kick = (uint16_t *)(memory + ring->used + 4 + 8 * (size_t)ring->size);
  uint16_t *wanted_call = (uint16_t *)(memory + ring->available + 4 + 2 * (size_t)ring->size);
  uint64_t counter;
  while (cb_wait_readable(ring->kick, -1) == 1 && read(ring->kick, &counter, 8) == 8) {
    uint16_t before = done;
    do {
      while (__atomic_load_n(&available[1], __ATOMIC_ACQUIRE) != position) {
        uint16_t head = available[2 + (position++ & mask)] & mask;
        struct descriptor outer, table[2];
        memcpy(&outer, memory + ring->descriptors + 16 * (size_t)head, sizeof outer);
        memcpy(table, memory + outer.address, sizeof table);
        struct header request;
        memcpy(&request, memory + table[0].address, sizeof request);
        int is_display_info = request.type == 0x100;
        char answer[408] = {0};
        struct header *reply = (struct header *)answer;
        *reply = (struct header){.type = is_display_info ? 0x1101 : 0x1100, .flags = request.flags & 1,
                                 .fence = request.flags & 1 ? request.fence : 0, .context = request.context};
        uint32_t length = is_display_info ? 408 : 24;
        memcpy(memory + table[1].address, answer, length);
        uint32_t entry[2] = {head, length};
        memcpy(memory + ring->used + 4 + 8 * (size_t)(done & mask), entry, sizeof entry);
        __atomic_store_n(&used[1], ++done, __ATOMIC_RELEASE);
      }
      *wanted_kick = position;
      __atomic_thread_fence(__ATOMIC_SEQ_CST);
    } while (__atomic_load_n(&available[1], __ATOMIC_ACQUIRE) != position);
    uint16_t event = __atomic_load_n(wanted_call, __ATOMIC_ACQUIRE);
    uint64_t one = 1;
    if ((uint16_t)(done - event - 1) < (uint16_t)(done - before) && write(ring->call, &one, 8) != 8)
      return;
  }
}

// A child that never outlives us, and holds open only these of our descriptors.
static pid_t child(const int *kept, size_t count) {
  pid_t pid = fork();
  if (pid != 0)
    return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int fd = 3; fd < 1024; fd++) {
    int is_kept = 0;
    for (size_t i = 0; i < count; i++)
      is_kept |= kept[i] == fd;
    if (!is_kept)
      close(fd);
  }
  return 0;
}

pid_t cb_serve(const struct cb_ring *ring) {
  pid_t pid = child((int[]){ring->memory, ring->kick, ring->call}, 3);
  if (pid == 0) {
    serve(ring);
    _exit(1);
  }
  return pid;
}

pid_t cb_echo(int kick, int call) {
  pid_t pid = child((int[]){kick, call}, 2);
  if (pid == 0) {
    uint64_t counter, one = 1;
    while (read(kick, &counter, 8) == 8 && write(call, &one, 8) == 8)
      ;
    _exit(1);
  }
  return pid;
}

int cb_eventfd(void) { return eventfd(0, EFD_CLOEXEC); }

int cb_wait_readable(int fd, int milliseconds) {
  struct pollfd item = {.fd = fd, .events = POLLIN};
  return poll(&item, 1, milliseconds);
}

int cb_wait_call(int call) {
  uint64_t counter;
  if (cb_wait_readable(call, 2000) != 1)
    return -1;
  return read(call, &counter, 8) == 8 ? 0 : -1;
}

int cb_ping(int kick, int call) {
  uint64_t one = 1;
  return write(kick, &one, 8) == 8 ? cb_wait_call(call) : -1;
}

// MARK: processes

int cb_stay_on_one_cpu(int stay) {
  static cpu_set_t all;
  if (!stay)
    return sched_setaffinity(0, sizeof all, &all);
  if (sched_getaffinity(0, sizeof all, &all) != 0)
    return -1;
  int cpu = CPU_SETSIZE - 1;
  while (!CPU_ISSET(cpu, &all))
    cpu--;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  return sched_setaffinity(0, sizeof one, &one);
}

pid_t cb_spawn(char *const arguments[]) {
  pid_t pid;
  int error = posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ);
  return error ? -1 : pid;
}

pid_t cb_spawn_with(char *const arguments[], int output, int input) {
  pid_t pid;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  posix_spawn_file_actions_adddup2(&actions, output, 2);
  if (input >= 0)
    posix_spawn_file_actions_adddup2(&actions, input, 3);
  int error = posix_spawn(&pid, arguments[0], &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  return error ? -1 : pid;
}

int cb_full_pipe(int ends[2]) {
  static const char bytes[4096];
  if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[1], F_SETFL, O_NONBLOCK) < 0)
    return -1;
  while (write(ends[1], bytes, sizeof bytes) > 0) {
  }
  return fcntl(ends[1], F_SETFL, 0);
}

int cb_reap(pid_t pid) {
  int status;
  if (waitpid(pid, &status, 0) != pid)
    return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int64_t cb_cpu_time(pid_t pid) {
  clockid_t clock;
  struct timespec time;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0)
    return -1;
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int cb_kill(pid_t pid) { return kill(pid, SIGKILL); }
int cb_sleep(unsigned microseconds) { return usleep(microseconds); }
