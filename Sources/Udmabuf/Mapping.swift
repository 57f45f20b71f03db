internal import Glibc
internal import Synchronization
public import SystemPackage

/// A shared mapping of a file. Others may write to it at any time, so nothing is ever borrowed from it: bytes
/// are copied in or out, and ring indices are loaded and stored atomically.
///
/// Offsets are checked; one outside the mapping is our own bug and traps.
@safe public final class Mapping {
  private let base: UnsafeMutableRawPointer
  /// In bytes.
  public let length: Int
  private let mapped: Int
  private let slack: Int

  /// Maps `length` bytes of `fd` from `offset` on, which need not be page-aligned.
  /// The corresponding C function is `mmap` with `MAP_SHARED`.
  public init(_ fd: borrowing FD, offset: UInt64, length: Int, writable: Bool) throws(Errno) {
    slack = Int(offset % systemPageSize)
    guard length > 0, let first = Int(exactly: offset - UInt64(slack)), length <= Int.max - slack else {
      throw .invalidArgument
    }
    let protection = PROT_READ | (writable ? PROT_WRITE : 0)
    let (size, skip) = (length + slack, slack)
    let address = try fd.withRaw { raw throws(Errno) in
      try retrying {
        unsafe Int(bitPattern: mmap(nil, size, protection, MAP_SHARED | MAP_NORESERVE, raw, first))
      }
    }
    let start = unsafe UnsafeMutableRawPointer(bitPattern: address)!
    // Our core files leave this memory out, because it may hold a guest's secrets.
    unsafe madvise(start, size, MADV_DONTDUMP)
    unsafe base = start + skip
    self.length = length
    mapped = size
  }

  deinit { unsafe munmap(base - slack, mapped) }

  /// Gives whole pages of the file back to the kernel. They read as zero from now on.
  /// The corresponding C call is `madvise` with `MADV_REMOVE`.
  /// - Returns: false if the file cannot do that.
  package func discard(_ count: Int, at offset: Int) -> Bool {
    check(offset, count)
    return unsafe madvise(base + offset, count, MADV_REMOVE) == 0
  }

  private func check(_ offset: Int, _ count: Int) {
    precondition(offset >= 0 && count >= 0 && offset <= length - count, "outside the mapping")
  }

  /// Lends the address of `count` bytes from `offset` on, for one copy.
  func withBytes(at offset: Int, _ count: Int, _ body: (UnsafeMutableRawPointer) -> Void) {
    check(offset, count)
    unsafe body(base + offset)
  }

  /// Copies `count` bytes from `offset` on to the end of `bytes`.
  package func append(to bytes: inout [UInt8], from offset: Int, count: Int) {
    check(offset, count)
    unsafe bytes.append(contentsOf: UnsafeRawBufferPointer(start: base + offset, count: count))
  }

  /// A copy of `count` bytes from `offset` on.
  public func bytes(at offset: Int, count: Int) -> [UInt8] {
    var copy: [UInt8] = []
    append(to: &copy, from: offset, count: count)
    return copy
  }

  /// Copies `bytes` into the mapping at `offset`.
  public func store(_ bytes: RawSpan, at offset: Int) {
    check(offset, bytes.byteCount)
    unsafe bytes.withUnsafeBytes { source in
      guard let start = source.baseAddress else { return }
      unsafe (base + offset).copyMemory(from: start, byteCount: source.count)
    }
  }

  /// Reads one little-endian number once. It need not be aligned.
  public func load<Number: FixedWidthInteger & BitwiseCopyable>(_: Number.Type, at offset: Int) -> Number {
    check(offset, MemoryLayout<Number>.size)
    return unsafe Number(littleEndian: (base + offset).loadUnaligned(as: Number.self))
  }

  /// Writes one little-endian number. It need not be aligned.
  public func store<Number: FixedWidthInteger & BitwiseCopyable>(_ value: Number, at offset: Int) {
    check(offset, MemoryLayout<Number>.size)
    unsafe (base + offset).storeBytes(of: value.littleEndian, as: Number.self)
  }

  /// Whether the address of `offset` is a multiple of `alignment`. The start of a mapping has the alignment of its
  /// offset in the file.
  package func isAligned(_ offset: Int, to alignment: Int) -> Bool {
    unsafe UInt(bitPattern: base + offset) % UInt(alignment) == 0
  }

  /// Loads a ring index, and with it everything that the other side wrote before it. The address at `offset` must be
  /// even.
  package func loadAcquire(at offset: Int) -> UInt16 {
    UInt16(littleEndian: unsafe atomic(at: offset).pointee.load(ordering: .acquiring))
  }

  /// Publishes a ring index after everything that was written before it.
  package func storeRelease(_ value: UInt16, at offset: Int) {
    unsafe atomic(at: offset).pointee.store(value.littleEndian, ordering: .releasing)
  }

  private func atomic(at offset: Int) -> UnsafeMutablePointer<Atomic<UInt16>> {
    check(offset, 2)
    let pointer = unsafe base + offset
    precondition(UInt(bitPattern: pointer) & 1 == 0, "a ring index is two-byte aligned")
    return unsafe pointer.assumingMemoryBound(to: Atomic<UInt16>.self)
  }
}

/// Orders a store before a later load of another location. Both sides of an event index need this.
package func fullMemoryFence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }
