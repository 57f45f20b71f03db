internal import Streaming

// Feeds the bytes of a stream's client in pieces of any size.

func fuzzStream(_ input: inout Input) throws {
  let pieces = (0..<Int(input.byte() % 8)).map { _ in Int(input.byte()) }
  let said = input.take(input.remaining)
  let (whole, error) = heard(said, [])
  let (parts, otherError) = heard(said, pieces)
  expect(whole == parts, "it depends on the pieces what is understood")
  // A mistake is found as soon as it can be, and it is the same one.
  expect(error == otherError, "\(String(describing: error)) and \(String(describing: otherError))")
  expect(whole.count <= said.count / UnixFDAnswer.size, "\(whole.count) answers in \(said.count) bytes")
  for (index, answer) in whole.enumerated() {
    let bytes = Array(said[index * 16..<index * 16 + 16])
    switch answer {
    case .release(let id):
      let number = (0..<8).map { UInt8(truncatingIfNeeded: id >> ($0 * 8)) }
      expect(bytes == [1, 0, 0, 0, 8, 0, 0, 0] + number, "an answer that was not said")
    }
  }
}

/// - Parameter pieces: the sizes of those that come first; the rest comes at once.
private func heard(_ said: [UInt8], _ pieces: [Int]) -> (answers: [UnixFDAnswer], error: UnixFDError?) {
  var (rest, input, answers) = (said[...], [UInt8](), [UnixFDAnswer]())
  for piece in pieces + [said.count] {
    input += rest.prefix(piece)
    rest = rest.dropFirst(piece)
    var left = input[...]
    do throws(UnixFDError) {
      while let answer = try UnixFDAnswer.next(in: &left) { answers.append(answer) }
    } catch { return (answers, error) }
    input = Array(left)
  }
  return (answers, nil)
}
