internal import Buffers
internal import Linux
internal import Logging

/// The region of the guest in which memory of the host is mapped, and what is mapped there: blobs of
/// VIRTIO_GPU_BLOB_MEM_HOST3D (virtio 1.3, 5.7.6.8: RESOURCE_MAP_BLOB). The front end maps and unmaps.
final class HostRegion {
  /// Each mapping is a region of memory to QEMU, which has room for 256 with the guest's own.
  static let maxMappings = 224

  /// What of the host's memory the guest may use, by the ids by which it asks for it.
  let offers: [UInt64: HostOffer]
  private(set) var region: SharedRegion
  /// How many mappings are in it, or on their way into it or out of it.
  private var mappings = 0
  weak var frontEnd: (any GPUFrontEnd)?
  /// How long the front end is waited for.
  var patience: TimeSpan
  private let mistakes: MistakeLog
  private let logger: Logger
  /// The front end has answered something: what it was asked for after that has waited for it too.
  private let heard: () -> Void

  init(
    _ memory: HostMemory, patience: TimeSpan, _ mistakes: MistakeLog, _ logger: Logger,
    heard: @escaping () -> Void
  ) {
    region = SharedRegion(size: memory.size)
    offers = Dictionary(uniqueKeysWithValues: memory.offers.map { ($0.id, $0) })
    (self.patience, self.mistakes, self.logger, self.heard) = (patience, mistakes, logger, heard)
  }

  // MARK: Blobs

  func check(_ id: ResourceID, _ blob: BlobRequest, entries: UInt32) throws(Mistake) {
    guard let offer = offers[blob.blobID] else {
      throw Mistake(
        .invalidParameter, .offer,
        "blob \(id) is to be of offer \(blob.blobID), which there is not; there are "
          + offers.keys.sorted().map(String.init).joined(separator: ", "))
    }
    guard blob.size == offer.size else {
      throw Mistake(
        .invalidParameter, .offer,
        "blob \(id) is to have \(blob.size) bytes of offer \(offer.id), which has \(offer.size)")
    }
    guard entries == 0 else {
      throw Mistake(
        .invalidParameter, .offer,
        "blob \(id) of the host's memory comes with \(entries) entries of the guest's")
    }
    guard offer.uses < offer.limit else {
      throw Mistake(
        .outOfMemory, .offer,
        "offer \(offer.id) is in use by \(offer.uses) blobs already, as many as it may be; \(id) is one too many"
      )
    }
  }

  func makeBlob(_ id: ResourceID, _ blob: BlobRequest) -> Resource {
    guard let offer = offers[blob.blobID] else { preconditionFailure("the blob was checked") }
    offer.uses += 1
    logger.debug("resource \(id): offer \(offer.id), \(offer.size) bytes of the host")
    return Resource(id: id, blob: blob.size, offer: offer, isMappable: blob.flags & 1 != 0)
  }

  /// The resource is gone: so are its mapping and what it took of an offer. A guest makes the next blob of it without
  /// waiting until the mapping is gone.
  /// - Returns: what an answer waits for. The guest uses the mapping's place for another one as soon as it hears
  ///   that the resource is gone.
  @discardableResult
  func endUse(of resource: Resource) -> Errand? {
    resource.offer?.uses -= 1
    guard let mapping = resource.mapping.take() else { return nil }
    let errand = Errand(ifAbandoned: .ok, by: .frontEnd, patience: patience)
    mapping.waitUntilGone(errand, failure: .ok)
    switch mapping.state {
    case .coming: mapping.state = .unwanted
    case .there: if !takeAway(mapping) { return nil }
    case .unwanted, .going: break
    }
    return errand
  }

  // MARK: Mappings

  func map(_ resource: Resource, at offset: UInt64) throws(Mistake) -> Errand {
    let id = resource.id
    guard let offer = resource.offer, resource.isMappable else {
      throw Mistake(
        .unspecified, .mapping,
        "RESOURCE_MAP_BLOB of resource \(id), \(resource.form), which is not mappable")
    }
    guard resource.mapping == nil else {
      throw Mistake(.unspecified, .mapping, "RESOURCE_MAP_BLOB of resource \(id), which is mapped already")
    }
    guard mappings < Self.maxMappings else {
      throw Mistake(
        .outOfMemory, .mapping,
        "RESOURCE_MAP_BLOB of resource \(id): \(mappings) mappings are there, as many as QEMU has room for")
    }
    guard offset % systemPageSize == 0, offer.size <= region.size, offset <= region.size - offer.size,
      region.reserve(offset..<offset + offer.size)
    else {
      throw Mistake(
        .invalidParameter, .mapping,
        "RESOURCE_MAP_BLOB of \(offer.size) bytes at \(hex(offset)): not aligned to \(systemPageSize), not free, "
          + "or not inside the region of \(region.size) bytes")
    }
    let (mapping, errand) = (
      HostMapping(offset..<offset + offer.size),
      Errand(ifAbandoned: .error(.unspecified), longest: .mapInfo, by: .frontEnd, patience: patience)
    )
    resource.mapping = mapping
    mappings += 1
    do throws(LostNews) {
      guard let frontEnd else { throw LostNews("there is no front end") }
      try offer.withDescriptor { fd throws(LostNews) in
        try frontEnd.map(fd, at: offset, length: mapping.length, writable: offer.isWritable) {
          [weak self, weak resource] in
          self?.mapped(mapping, resource, errand, $0)
        }
      }
    } catch {
      resource.mapping = nil
      mappings -= 1
      region.giveBack(mapping.range)
      throw Mistake(.unspecified, .mapping, "resource \(id) cannot be mapped: \(error)")
    }
    return errand
  }

  private func mapped(_ mapping: HostMapping, _ resource: Resource?, _ errand: Errand, _ isDone: Bool) {
    if errand.isAbandoned { mapping.state = .unwanted }
    let isWanted = mapping.state == .coming
    if !isDone {
      mistakes.report(
        .mapping, "the front end did not map \(mapping.length) bytes at \(hex(mapping.range.lowerBound))")
      gone(mapping, resource, true)
    } else if isWanted {
      mapping.state = .there
    } else {
      takeAway(mapping, resource)
    }
    errand.finish(isDone && isWanted ? .mapInfo : .error(.unspecified))
    heard()
  }

  func unmap(_ resource: Resource) throws(Mistake) -> Errand {
    let id = resource.id
    guard let mapping = resource.mapping, mapping.state == .there else {
      throw Mistake(.unspecified, .mapping, "RESOURCE_UNMAP_BLOB of resource \(id), which is not mapped")
    }
    let errand = Errand(ifAbandoned: .ok, by: .frontEnd, patience: patience)
    mapping.waitUntilGone(errand, failure: .error(.unspecified))
    guard takeAway(mapping, resource) else {
      throw Mistake(
        .unspecified, .mapping, "resource \(id) cannot be unmapped: the front end cannot be asked")
    }
    return errand
  }

  /// Asks the front end to take a mapping away.
  /// - Returns: false if it cannot be asked. Then the mapping counts as gone.
  @discardableResult
  private func takeAway(_ mapping: HostMapping, _ resource: Resource? = nil) -> Bool {
    mapping.state = .going
    do throws(LostNews) {
      guard let frontEnd else { throw LostNews("there is no front end") }
      try frontEnd.unmap(at: mapping.range.lowerBound, length: mapping.length) {
        [weak self, weak resource] in
        self?.gone(mapping, resource, $0)
      }
      return true
    } catch {
      mistakes.report(.mapping, "\(mapping.length) bytes cannot be unmapped: \(error)")
      gone(mapping, resource, false)
      return false
    }
  }

  /// Its place is free, even if the front end could not take it away: what lies there still makes it refuse the
  /// next mapping there.
  private func gone(_ mapping: HostMapping, _ resource: Resource?, _ isDone: Bool) {
    if resource?.mapping === mapping { resource?.mapping = nil }
    region.giveBack(mapping.range)
    mappings -= 1
    mapping.isGone(isDone)
    heard()
  }
}
