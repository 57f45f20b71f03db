package import Buffers
package import Port
internal import Udmabuf

/// A device for a port, whose resources and whose queue are the test's.
package final class LendingDevice: PortDevice {
  package enum Resource {
    case lendable(LendableBuffer)
    case copied
    case ofHost
  }

  package var epoch: UInt64 = 1
  package var resources: [UInt32: Resource] = [:]
  /// There are commands in the queue, which are taken by `takeQueue`.
  package var queueIsFull = false
  private var waiting: [() -> Void] = []
  package private(set) var reads = 0

  package init() {}

  package var waitingCount: Int { waiting.count }

  package func afterQueue(_ body: @escaping () -> Void) {
    if queueIsFull { waiting.append(body) } else { body() }
  }

  package func takeQueue() {
    queueIsFull = false
    let bodies = waiting
    waiting = []
    for body in bodies { body() }
  }

  package func lendablePages(of resource: UInt32) throws(PortResourceError) -> Buffer {
    switch resources[resource] {
    case nil: throw .noSuchResource
    case .lendable(let pages): return pages.buffer
    case .copied: throw .notLent("listLimit: 2000 items, 1024 at most")
    case .ofHost: throw .memoryOfHost
    }
  }

  package func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]? {
    reads += 1
    guard case .lendable(let pages) = resources[resource] else { return nil }
    return pages.memory.bytes(at: 0, count: count)
  }

  /// A resource whose pages begin with these bytes.
  @discardableResult
  package func make(_ resource: UInt32, pages: Int = 1, _ bytes: [UInt8] = []) throws -> LendableBuffer {
    let new = try LendableBuffer(pages: pages)
    unsafe new.memory.store(bytes.span.bytes, at: 0)
    resources[resource] = .lendable(new)
    return new
  }

  /// Its driver starts anew: the pages go, as `GPUDevice` lets them go.
  package func reset() {
    epoch += 1
    for case .lendable(let pages) in resources.values {
      for borrower in pages.buffer.borrowers { _ = borrower.pagesAreWanted(isReset: true) }
    }
    resources = [:]
  }
}
