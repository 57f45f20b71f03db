// The peers of the benchmarks: what a bare C program does for the same end, and the few system calls that
// the measuring side needs. Nothing of the measured code is used here.
#ifndef CBENCH_H
#define CBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// MARK: resolve

struct cb_region {
  uint64_t start, length, offset;
  uint32_t file;
};
struct cb_entry {
  uint64_t address, length;
};
struct cb_range {
  uint32_t file;
  uint64_t offset, length;
};

// Makes a new list of joined ranges, which the caller frees.
// Returns how many, or -1 for an entry that is empty, overflows, or meets a hole.
ssize_t cb_resolve(const struct cb_region *regions, size_t region_count, const struct cb_entry *entries,
                   size_t entry_count, struct cb_range **ranges);

// MARK: create

// Fills a new list, in which `file` is a memfd, and asks for a dma-buf.
int cb_create(int device, const struct cb_range *ranges, size_t count);

// MARK: shadow

struct cb_piece {
  size_t from, to, length;
};
// NULL if it cannot be mapped.
void *cb_map(int file, size_t length);
void cb_unmap(void *start, size_t length);
// One memcpy for each piece.
void cb_copy(void *target, const void *source, const struct cb_piece *pieces, size_t count);

// MARK: queue

// A virtqueue in a file whose offsets are the guest's addresses.
struct cb_ring {
  int memory;
  size_t length;
  uint64_t descriptors, available, used;
  uint16_t size;
  int kick, call;
};

// Starts a process that serves the ring: for each chain, an indirect table of a request and the room for
// its answer, it copies the request's header in and an answer of the right size out.
pid_t cb_serve(const struct cb_ring *ring);
// Starts a process that only reads one eventfd and writes the other.
pid_t cb_echo(int kick, int call);
// An eventfd whose reader waits.
int cb_eventfd(void);
// Adds one to `kick` and waits until `call` was read. -1 after two seconds.
int cb_ping(int kick, int call);
// The second half of it.
int cb_wait_call(int call);
int cb_wait_readable(int fd, int milliseconds);

// MARK: consumers

// Starts a process that for each kick sends one message with this descriptor.
pid_t cb_tell(int kick, int socket, int passed);
// Adds one to `kick`, and waits until a message has been received and what came with it is closed. -1 after two
// seconds, or when the peer is gone.
int cb_ask(int kick, int socket);
// Receives all that is there and forgets it: how many bytes, or -1 when the peer is gone.
ssize_t cb_drain(int socket);
// One message each way over a connection both of whose ends are here: `asked` bytes, and `answered` bytes with `copies` descriptors
// for `passed`, which are closed. -1 if it fails.
int cb_pass(int near, int far, size_t asked, size_t answered, int passed, size_t copies);
// The same with the system calls of a process that serves it: `loop` (of cb_watch) is asked what is ready before each receive,
// and, with a `passed` that is not negative, a copy of it goes with one end of a new pipe. The other end becomes the `token`, which
// is watched, and closed by the next call.
int cb_answer(int loop, int near, int far, size_t asked, size_t answered, int passed, int *token);
// An epoll that watches `far` for input, the same one for all; -1 if it fails.
int cb_watch(int far);
bool cb_contains(const void *bytes, size_t size, const char *text);
// How many bytes of memory this process has of the C library now.
size_t cb_heap(void);
// How often memory was asked for in this process so far (malloc, calloc, realloc).
uint64_t cb_allocations(void);
// Page faults of a process that needed no reading; -1 if it is gone.
int64_t cb_minor_faults(pid_t pid);

// MARK: memory that is offered to a guest

// Bytes of the messages on the way of an offer: asked for and answered on one socket, told on another, a mapping asked for and
// acknowledged on a third one; and bytes of the memory.
struct cb_offer_sizes {
  size_t asked, answered, told, mapped, acknowledged, memory;
};
// Starts the one process that serves offers, to be called once; -1 if it fails.
pid_t cb_offer_start(struct cb_offer_sizes sizes);
// Offers `memory` to it, kicks, and acknowledges the mapping, until it is called. -1 if it fails.
int cb_offer_life(int memory);

// MARK: processes

// Starts a program by its path, the first of the arguments; NULL ends them.
pid_t cb_spawn(char *const arguments[]);
// The same, with standard output and error to `output`, and with `input`, if it is not -1, as descriptor 3.
pid_t cb_spawn_with(char *const arguments[], int output, int input);
// A pipe whose writer waits, as it is full: `ends` are the one to read and the one to write.
int cb_full_pipe(int ends[2]);
// Waits for the end; returns the exit status, or -1 if it was killed.
int cb_reap(pid_t pid);
// The CPU time that a process has used, user's and kernel's, in nanoseconds; -1 if it is gone.
int64_t cb_cpu_time(pid_t pid);
int cb_kill(pid_t pid);
// Keeps this process, and those that it starts from now on, on one CPU of those that it may use; or no longer.
// -1 if it cannot.
int cb_stay_on_one_cpu(int stay);
int cb_sleep(unsigned microseconds);

#endif
