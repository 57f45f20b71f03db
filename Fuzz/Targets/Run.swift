internal import CFuzz
internal import Linux
internal import SystemPackage

/// Handles inputs, and sees to it that none leaves anything behind.
struct Run {
  /// What one input may leave on the heap, in bytes: the runtime keeps what it learned of a type that it met
  /// for the first time.
  private static let growthOfOne = 256 << 10
  /// What all inputs together may leave. One that leaks a little is found by its repetition.
  private static let growthOfAll = 4 << 20
  /// How long one input may take, in nanoseconds of the processor's time: a busy machine finds nothing. What
  /// waits instead of working is found by libFuzzer's own `-timeout`.
  private static let patience: UInt64 = 1_000_000_000

  private let target: (inout Input) throws -> Void
  private var growth = 0

  init(_ target: @escaping (inout Input) throws -> Void) { self.target = target }

  mutating func handle(_ bytes: [UInt8]) {
    let free = lowestFreeDescriptor()
    let before = __sanitizer_get_current_allocated_bytes()
    let start = cf_processor_nanoseconds()
    var input = Input(bytes)
    do {
      try target(&input)
    } catch {
      fail("the target's own set-up failed: \(error)")
    }
    let spent = cf_processor_nanoseconds() - start
    expect(spent <= Self.patience, "an input took \(spent / 1_000_000) ms")
    let grown = Int(__sanitizer_get_current_allocated_bytes()) - Int(before)
    growth += grown
    let stillFree = lowestFreeDescriptor()
    expect(stillFree == free, "an input left descriptor \(free) open")
    expect(grown <= Self.growthOfOne, "one input left \(grown) bytes on the heap")
    expect(growth <= Self.growthOfAll, "the inputs left \(growth) bytes on the heap")
  }

  private func lowestFreeDescriptor() -> CInt {
    do {
      let event = try EventFD()
      return event.fd.withRaw { $0 }
    } catch {
      fail("no descriptor is free: \(error)")
    }
  }
}
