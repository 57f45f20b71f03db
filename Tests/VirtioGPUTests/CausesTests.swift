import Buffers
import Guest
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import VirtioGPU

/// docs/causes.md, which has a table of causes and one of mistakes.
@Suite struct CausesTests {
  private let tables: [Set<String>]

  /// The names in the first column of each table, by the headings of these columns.
  init() throws {
    let lines = try readText(repository.appending("docs/causes.md")).split(separator: "\n")
    tables = ["cause", "kind"].map { heading in
      let rows = lines.drop { !$0.hasPrefix("| \(heading) |") }.dropFirst(2).prefix { $0.hasPrefix("|") }
      return Set(
        rows.flatMap { row in
          // Every second piece between backquotes is a name.
          row.split(separator: "|")[0].split(separator: "`", omittingEmptySubsequences: false).enumerated()
            .filter { $0.offset % 2 == 1 }.map { String($0.element) }
        })
    }
  }

  @Test("docs/causes.md lists every cause of a copy, and no other")
  func causes() {
    #expect(tables[0] == Set(ShadowCause.Name.allCases.map(\.rawValue)))
  }

  @Test("docs/causes.md lists every kind of mistake that is no cause, and no unknown kind")
  func mistakes() {
    let kinds = Set(MistakeKind.allCases.map(\.rawValue))
    #expect(kinds.subtracting(tables[0]).isSubset(of: tables[1]))
    #expect(tables[1].isSubset(of: kinds), "\(tables[1].subtracting(kinds))")
  }

  @Test("each refusal of a sink and each error of lending has its own kind of mistake")
  func names() {
    for refusal in SinkError.Refusal.allCases {
      #expect(MistakeKind(refusal).rawValue == refusal.rawValue)
    }
    for error in LenderErrors.all {
      // One kind for two causes: nothing can be lent.
      let cause = error.cause == .noPermission ? .noDevice : error.cause
      #expect(MistakeKind(error).rawValue == cause?.rawValue ?? (error.isQuota ? "quota" : "memory"))
    }
  }
}

private enum LenderErrors {
  static let all: [LendError] = [
    .memory(.hole(item: 0, GuestAddress(0))), .short(bytes: 1, needed: 2),
    .unaligned(.offsetMisaligned(item: 0, offset: 1)), .udmabuf(.tooManyItems(count: 2, limit: 1)),
    .udmabuf(.tooManyBytes(bytes: 2, limit: 1)), .udmabuf(.notMemfd(item: 0)), .udmabuf(.emptyList),
    .noDevice(.noSuchFileOrDirectory), .noDevice(.permissionDenied), .descriptors(limit: 1),
    .quota(.entries, needed: 2, limit: 1),
  ]
}

extension LendError {
  fileprivate var isQuota: Bool { if case .quota = self { true } else { false } }
}
