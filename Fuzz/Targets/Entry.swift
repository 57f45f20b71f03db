internal import CFuzz
internal import Linux
internal import SystemPackage

// What libFuzzer calls. One program holds all targets; `--target=NAME` chooses.

/// What one target does with one input. It traps when something is wrong.
private typealias Target = @Sendable (inout Input) throws -> Void

private let targets: [String: Target] = [
  "messages": fuzzMessages,
  "queue": fuzzQueue,
  "commands": fuzzCommands,
  "sequence": fuzzSequence,
  "memory": fuzzMemory,
  "display": fuzzDisplay,
  "replies": fuzzReplies,
  "control": fuzzControl,
  "port": fuzzPort,
  "lending": fuzzLending,
  "stream": fuzzStream,
  "trace": fuzzTrace,
]

/// Inputs are handled one after the other in one thread.
private nonisolated(unsafe) var run = Run { _ in }
/// Of each instruction, in bytes, where inputs are programs of them.
private nonisolated(unsafe) var instructionSize: Int?

@_cdecl("LLVMFuzzerInitialize")
package func initialize(
  _ count: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>>>
) -> CInt {
  let names = targets.keys.sorted().joined(separator: ", ")
  let option = "--target="
  for index in 0..<Int(unsafe count.pointee) {
    let argument = unsafe String(cString: arguments.pointee[index])
    guard argument.hasPrefix(option) else { continue }
    let name = String(argument.dropFirst(option.count))
    guard let target = targets[name] else { break }
    do { try ignoreWriteSignals() } catch { fail("SIGPIPE cannot be ignored: \(error)") }
    unsafe run = Run(target)
    unsafe instructionSize = ["sequence": Instruction.size, "lending": LendingStep.size][name]
    return 0
  }
  fail("say which target: \(option)NAME, one of \(names)")
}

@_cdecl("LLVMFuzzerCustomMutator")
package func mutate(
  _ start: UnsafeMutablePointer<UInt8>, _ count: Int, _ capacity: Int, _ seed: CUnsignedInt
) -> Int {
  guard let size = unsafe instructionSize else { return unsafe LLVMFuzzerMutate(start, count, capacity) }
  let old = unsafe Array(UnsafeBufferPointer(start: start, count: count))
  let new = Mutation(size: size).mutate(old, capacity: capacity, seed: seed)
  unsafe start.update(from: new, count: new.count)
  return new.count
}

@_cdecl("LLVMFuzzerTestOneInput")
package func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  unsafe run.handle(Array(UnsafeBufferPointer(start: start, count: count)))
  return 0
}
