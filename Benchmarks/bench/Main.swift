import Glibc
import Linux

/// Measures the product beside peers that do the same in bare C, in the same run and by turns: a machine that
/// is busy slows both. Prints medians; what matters are the ratios.
@main
struct Bench {
  static let benches: [(name: String, run: @Sendable () throws -> Void)] = [
    ("resolve", benchResolve), ("create", benchCreate), ("queue", benchQueue), ("start", benchStart),
    ("shadow", benchShadow), ("frames", benchFrames), ("consumers", benchConsumers),
    ("calls", benchCalls), ("scale", benchScale), ("lending", benchLending),
    ("lending-scale", benchLendingScale),
    ("offers", benchOffers),
    ("tool", benchTool),
  ]

  static func main() {
    let wanted = CommandLine.arguments.dropFirst()
    // For Benchmarks/check, which counts instructions.
    if wanted.first == "repeat" { return Operation.main(Array(wanted.dropFirst())) }
    let names = benches.map(\.name)
    if let stranger = wanted.first(where: { !names.contains($0) }) {
      printError("bench: there is no bench \(stranger); there are \(names.joined(separator: ", "))")
      exit(64)
    }
    for (name, run) in benches where wanted.isEmpty || wanted.contains(name) {
      do { try run() } catch {
        fflush(nil)
        printError("bench \(name): \(error)")
        exit(1)
      }
      fflush(nil)
    }
  }
}

/// What was measured did not do what it should.
struct WrongResult: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

func check(_ holds: Bool, _ message: @autoclosure () -> String) throws {
  if !holds { throw WrongResult(message()) }
}
