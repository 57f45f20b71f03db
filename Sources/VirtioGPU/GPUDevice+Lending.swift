package import Buffers
internal import Scanout

/// Why the pages of a resource cannot be lent to others than those who show them.
package enum ResourceObstacle: Error, Equatable {
  /// The device has no such resource, or the resource no pages.
  case noSuchResource
  /// They are the host's.
  case memoryOfHost
  /// They can only be copied.
  case copied(ShadowCause)
}

// What whoever lends a guest's buffers on asks the device. Resources have numbers that the guest gives again after each start of
// its driver; `epoch` tells one start from another.
extension GPUDevice {
  /// Runs `body` once every command that is in the control queue now has been taken: at once, if that is so already. A guest's word
  /// about a resource can be faster than the command that makes it.
  package func afterQueue(_ body: @escaping () -> Void) {
    process(control)
    if control.hasMore { awaitingQueue.append(body) } else { body() }
  }

  /// The pages of a resource, for which one more try to lend them is made.
  package func lendablePages(of resource: UInt32) throws(ResourceObstacle) -> Buffer {
    guard let resource = resources[ResourceID(resource)], let buffer = resource.buffer else {
      throw .noSuchResource
    }
    if resource.offer != nil { throw .memoryOfHost }
    if case .shadow(let cause) = buffer.backing, !lender.lendAgain(buffer) { throw .copied(cause) }
    return buffer
  }

  /// A copy of what a resource's pages begin with; nil if there are no pages of the guest's, or fewer bytes.
  package func firstBytes(_ count: Int, of resource: UInt32) -> [UInt8]? {
    guard let resource = resources[ResourceID(resource)], resource.offer == nil,
      let buffer = resource.buffer, buffer.size >= UInt64(count)
    else { return nil }
    return buffer.bytes.bytes(upTo: count)
  }

  /// Commands that were in the queue have been taken.
  func tellWhoAwaitsQueue() {
    if awaitingQueue.isEmpty || control.hasMore { return }
    let bodies = awaitingQueue
    awaitingQueue = []
    for body in bodies { body() }
  }
}
