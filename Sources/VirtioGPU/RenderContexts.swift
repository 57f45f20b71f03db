internal import Buffers

/// The 3D contexts that drivers make to map memory of the host (virtio 1.3, 5.7.6.8: CTX_CREATE). They are empty.
struct RenderContexts {
  /// The most contexts: the guest's quota of resources.
  let limit: Int
  private(set) var ids: Set<UInt32> = []

  init(limit: Int) { self.limit = limit }

  mutating func create(_ id: UInt32) throws(Mistake) {
    guard id != 0, !ids.contains(id) else {
      throw Mistake(.invalidContext, .context, "context \(id) exists already, or is 0, which is no context")
    }
    guard ids.count < limit else {
      throw Mistake(
        .outOfMemory, .quota, "one more context would exceed this guest's quota of \(limit) resources",
        quota: .resources)
    }
    ids.insert(id)
  }

  mutating func destroy(_ id: UInt32) throws(Mistake) {
    try check(id)
    ids.remove(id)
  }

  func check(_ id: UInt32) throws(Mistake) {
    guard ids.contains(id) else { throw Mistake(.invalidContext, .context, "there is no context \(id)") }
  }

  /// There is no 3D, so only an empty submission succeeds.
  func submit(to id: UInt32, bytes: UInt32) throws(Mistake) {
    try check(id)
    guard bytes == 0 else {
      throw Mistake(
        .unspecified, .context, "SUBMIT_3D of \(bytes) bytes; contexts are empty here, there is no 3D")
    }
  }

  mutating func removeAll() { ids.removeAll() }
}
