internal import Buffers
internal import Scanout

/// The guest's resources by their numbers. Each counts against the guest's account from `add` to `remove`.
final class ResourceTable {
  private var resources: [ResourceID: Resource] = [:]
  private let account: GuestAccount

  init(_ account: GuestAccount) { self.account = account }

  var values: Dictionary<ResourceID, Resource>.Values { resources.values }
  var count: Int { resources.count }
  var isEmpty: Bool { resources.isEmpty }

  subscript(id: ResourceID) -> Resource? { resources[id] }

  func find(_ id: ResourceID) throws(Mistake) -> Resource {
    guard let resource = resources[id] else {
      throw Mistake(.invalidResource, .invalidResource, "there is no resource \(id)")
    }
    return resource
  }

  /// - Parameter command: its name, for people.
  /// - Throws: also if the part is not inside the image.
  func find(_ id: ResourceID, with part: Rectangle, for command: String) throws(Mistake) -> Resource {
    let resource = try find(id)
    if let image = resource.image {
      guard part.fits(width: image.width, height: image.height) else {
        throw Mistake(
          .invalidParameter, .rectangle, "\(command): \(part) is not inside resource \(id), \(resource.form)")
      }
    }
    return resource
  }

  func checkNew(_ id: ResourceID) throws(Mistake) {
    guard id.rawValue != 0, resources[id] == nil else {
      throw Mistake(
        .invalidResource, .invalidResource, "resource \(id) exists already, or is 0, which is no resource")
    }
  }

  /// - Parameter make: makes the resource after the account has admitted it.
  func add(_ id: ResourceID, _ make: () throws(Mistake) -> Resource) throws(Mistake) {
    do throws(LendError) { try account.admitResource() } catch { throw Mistake(error, resource: id) }
    do throws(Mistake) { resources[id] = try make() } catch {
      account.dismissResource()
      throw error
    }
  }

  func remove(_ id: ResourceID) {
    if resources.removeValue(forKey: id) != nil { account.dismissResource() }
  }

  func removeAll() {
    for _ in resources { account.dismissResource() }
    resources.removeAll()
  }
}
