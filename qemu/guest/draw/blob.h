// Buffers that are no dumb ones: blobs of the card, and buffers of the guest that the card imports.
#pragma once
#include <stdint.h>

/// What the driver says that the card can do, in a line.
void parameters(void);
/// Gives this program a context of its own, without a capability set, and waits for the end of input.
void context(void);
/// A buffer in the hands of who writes on standard input.
/// @param kind: `guest` or `host` for a blob of the card, `heap`, `udmabuf` or the inherited `fd:N` for an imported one.
/// @param detail: of guest the flags, m(appable) s(hareable) x (cross-device); of host the blob's id.
void blob(const char *kind, uint64_t size, const char *detail);
/// Many mappings of the host's blob at once, and again into the holes that every other one leaves.
void blobs(uint32_t count, uint64_t size, uint32_t id);
