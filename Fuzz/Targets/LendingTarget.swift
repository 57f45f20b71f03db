internal import Fixtures

// Programs of all that happens to lent buffers: what guests, devices, importers and listeners do to a registry. A model says what has
// to come of it.

func fuzzLending(_ input: inout Input) throws {
  var step = LendingStep()
  let program = try LendingProgram(choose: { step.choose($0) }, report: { fail($0) })
  while !input.isEmpty {
    step = LendingStep(&input)
    try program.step()
  }
  try program.finish()
}

/// One step's choices, the first of which says what happens.
struct LendingStep {
  static let size = 12

  private var bytes: ArraySlice<UInt8> = []

  fileprivate init() {}
  fileprivate init(_ input: inout Input) { bytes = input.take(Self.size)[...] }

  fileprivate mutating func choose(_ count: Int) -> Int { Int(bytes.popFirst() ?? 0) % count }
}
