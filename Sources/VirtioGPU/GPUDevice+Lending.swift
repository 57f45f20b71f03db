package import Buffers
internal import Scanout

/// Why the pages of a resource cannot be lent to importers.
package enum ResourceObstacle: Error, Equatable {
  /// The device has no such resource, or the resource no pages.
  case noSuchResource
  /// The pages belong to the host.
  case memoryOfHost
  /// The pages can only be copied.
  case copied(ShadowCause)
}

// The port and the registry ask the device here. The guest reuses the numbers of resources after each start of its driver;
// `epoch` tells the starts apart.
extension GPUDevice {
  /// Runs `body` after every command now in the control queue was taken, or at once if there is none. A line over the port can
  /// overtake the command that makes its resource.
  package func afterQueue(_ body: @escaping () -> Void) {
    process(control)
    if control.hasMore { awaitingQueue.append(body) } else { body() }
  }

  /// The pages of a resource. If they are not lent yet, this tries once more.
  package func lendablePages(of resource: UInt32) throws(ResourceObstacle) -> Buffer {
    guard let resource = resources[ResourceID(resource)], let buffer = resource.buffer else {
      throw .noSuchResource
    }
    if resource.offer != nil { throw .memoryOfHost }
    if case .shadow(let cause) = buffer.backing, !lender.lendAgain(buffer) { throw .copied(cause) }
    return buffer
  }

  /// A copy of the first bytes of a resource's pages; nil if the guest's pages have fewer bytes, or there are none.
  package func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]? {
    guard let resource = resources[ResourceID(resource)], resource.offer == nil,
      let buffer = resource.buffer, buffer.size >= UInt64(count)
    else { return nil }
    return buffer.bytes.bytes(upTo: count)
  }

  /// The commands that were in the queue have been taken.
  func tellWhoAwaitsQueue() {
    if awaitingQueue.isEmpty || control.hasMore { return }
    let bodies = awaitingQueue
    awaitingQueue = []
    for body in bodies { body() }
  }
}
