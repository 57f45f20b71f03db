/// Pairs left items with right items, as many as possible (augmenting paths). An item gets its first choice, unless
/// that would leave another item without any.
///
/// - Parameter choices: for each left item its possible right items, the best first.
/// - Returns: for each left item its right item, or nil if none is left for it.
func assign(_ choices: [[Int]]) -> [Int?] {
  var owner: [Int: Int] = [:]

  func place(_ left: Int, _ tried: inout Set<Int>) -> Bool {
    for right in choices[left] where owner[right] == nil && tried.insert(right).inserted {
      owner[right] = left
      return true
    }
    for right in choices[left] where owner[right] != nil && tried.insert(right).inserted {
      if let other = owner[right], place(other, &tried) {
        owner[right] = left
        return true
      }
    }
    return false
  }

  for left in choices.indices {
    var tried: Set<Int> = []
    _ = place(left, &tried)
  }
  var result = [Int?](repeating: nil, count: choices.count)
  for (right, left) in owner { result[left] = right }
  return result
}
