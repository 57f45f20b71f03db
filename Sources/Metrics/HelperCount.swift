/// A count of a helper: a number, or several with names, such as one for each cause. The whole answer is also one.
package enum HelperCount: Codable, Equatable, Sendable {
  case number(UInt64)
  case group([String: HelperCount])

  package init(from decoder: any Decoder) throws {
    let value = try decoder.singleValueContainer()
    self =
      try (try? value.decode(UInt64.self)).map { .number($0) }
      ?? .group(value.decode([String: HelperCount].self))
  }

  package func encode(to encoder: any Encoder) throws {
    var value = encoder.singleValueContainer()
    switch self {
    case .number(let number): try value.encode(number)
    case .group(let group): try value.encode(group)
    }
  }

  /// All numbers with their paths, such as `shadows.noDevice`, in the order of these.
  package func all(below name: String = "") -> [(name: String, count: UInt64)] {
    switch self {
    case .number(let number): [(name, number)]
    case .group(let group):
      group.sorted { $0.key < $1.key }.flatMap { $1.all(below: name.isEmpty ? $0 : "\(name).\($0)") }
    }
  }

  /// The count at a path such as `device.shadows`, or nil.
  package subscript(_ field: String) -> HelperCount? {
    field.split(separator: ".").reduce(self as HelperCount?) { count, name in
      guard case .group(let group)? = count else { return nil }
      return group[String(name)]
    }
  }

  /// The number at a path, or nil.
  package func number(_ field: String) -> UInt64? {
    guard case .number(let number)? = self[field] else { return nil }
    return number
  }

  /// The numbers at a path with their names, in the order of these.
  package func numbers(by field: String) -> [(name: String, count: UInt64)] {
    guard case .group(let group)? = self[field] else { return [] }
    return group.sorted { $0.key < $1.key }.compactMap { name, count in
      guard case .number(let number) = count else { return nil }
      return (name, number)
    }
  }
}
