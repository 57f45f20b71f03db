internal import Buffers
internal import Linux
internal import Logging
internal import SystemPackage
internal import Udmabuf

/// The region of the guest for memory of the host, and the mappings in it: blobs of
/// VIRTIO_GPU_BLOB_MEM_HOST3D (virtio 1.3, 5.7.6.8: RESOURCE_MAP_BLOB). The front end maps and unmaps.
final class HostRegion {
  /// Each mapping is a memory region to QEMU, which has room for 256 with the guest's own.
  static let maxMappings = 224

  /// The host's memory that the guest may use, by the blob ids with which it asks.
  private(set) var offers: [UInt64: HostOffer]
  private(set) var region: SharedRegion
  /// The number of mappings in the region, or on their way into it or out of it.
  private var mappings = 0
  weak var frontEnd: (any GPUFrontEnd)?
  /// The control queue runs, and is not about to stop. QEMU 11.1 ends when it is asked for mappings of a device whose rings are
  /// stopped. So a mapping that must go then waits until they run.
  var isRunning = false { didSet { if isRunning { takeAwayLeftovers() } } }
  private var leftovers: [HostMapping] = []
  /// The longest wait for the front end.
  var patience: TimeSpan
  private let mistakes: MistakeLog
  private let logger: Logger
  /// Called when the front end has answered: later requests have waited for that answer too.
  private let heard: () -> Void

  init(
    _ memory: HostMemory, patience: TimeSpan, _ mistakes: MistakeLog, _ logger: Logger,
    heard: @escaping () -> Void
  ) {
    region = SharedRegion(size: memory.size)
    offers = Dictionary(uniqueKeysWithValues: memory.offers.map { ($0.id, $0) })
    (self.patience, self.mistakes, self.logger, self.heard) = (patience, mistakes, logger, heard)
  }

  // MARK: Offers

  func add(_ offer: HostOffer) {
    precondition(
      offers[offer.id] == nil && offer.size <= region.size, "an offer has an id of its own, and fits")
    offers[offer.id] = offer
  }

  /// Withdraws an offer: the guest gets no new blobs of it.
  func withdraw(_ offer: HostOffer) {
    offers[offer.id] = nil
    offer.withdraw()
  }

  /// Takes the host's memory away from a resource. If it is mapped, zeros take its place: nothing tells the guest of the moment, and
  /// a read from a hole may end the guest.
  func takeBack(from resource: Resource) {
    guard let offer = resource.offer, !resource.isTakenBack else { return }
    resource.isTakenBack = true
    if let mapping = resource.mapping {
      switch mapping.state {
      case .there: empty(mapping)
      // Zeros come as soon as the mapping is there.
      case .coming: mapping.isToBeEmptied = true
      case .emptying, .unwanted, .going: break
      }
    }
    offer.endUse()
  }

  // MARK: Blobs

  func check(_ id: ResourceID, _ blob: BlobRequest, entries: UInt32) throws(Mistake) {
    guard let offer = offers[blob.blobID] else {
      throw Mistake(
        .invalidParameter, .offer,
        "blob \(id) asks for offer \(blob.blobID), which does not exist; there are "
          + offers.keys.sorted().prefix(16).map(String.init).joined(separator: ", "))
    }
    guard blob.size == offer.size else {
      throw Mistake(
        .invalidParameter, .offer,
        "blob \(id) asks for \(blob.size) bytes of offer \(offer.id), which has \(offer.size); ask for all")
    }
    guard entries == 0 else {
      throw Mistake(
        .invalidParameter, .offer,
        "blob \(id) of the host's memory has \(entries) entries of the guest's memory; it must have none")
    }
    guard offer.uses < offer.limit else {
      throw Mistake(
        .outOfMemory, .offer,
        "offer \(offer.id) has \(offer.uses) blobs already, as many as it may have; \(id) is one too many"
      )
    }
  }

  func makeBlob(_ id: ResourceID, _ blob: BlobRequest) -> Resource {
    guard let offer = offers[blob.blobID] else { preconditionFailure("the blob was checked") }
    offer.beginUse()
    logger.debug("resource \(id): offer \(offer.id), \(offer.size) bytes of the host")
    return Resource(id: id, blob: blob.size, offer: offer, isMappable: blob.flags & 1 != 0)
  }

  /// Ends the mapping of a resource that is gone, and its use of an offer. A guest makes the offer's next blob without waiting
  /// until the mapping is gone.
  /// - Returns: the errand that the answer waits for. The guest uses the mapping's place again as soon as it hears that the
  ///   resource is gone.
  @discardableResult
  func endUse(of resource: Resource) -> Errand? {
    if let offer = resource.offer, !resource.isTakenBack { offer.endUse() }
    guard let mapping = resource.mapping.take() else { return nil }
    let errand = Errand(ifAbandoned: .ok, by: .frontEnd, patience: patience)
    mapping.waitUntilGone(errand, failure: .ok)
    switch mapping.state {
    case .coming, .emptying: mapping.state = .unwanted
    case .there: if !takeAway(mapping) { return nil }
    case .unwanted, .going: break
    }
    return errand
  }

  /// Forgets the mappings and uses of the resources when the device is reset. QEMU takes all mappings away then, and ends when it
  /// is asked for one that is gone (11.1.3).
  func reset(_ resources: some Sequence<Resource>) {
    for resource in resources {
      if let offer = resource.offer, !resource.isTakenBack { offer.endUse() }
      guard let mapping = resource.mapping.take() else { continue }
      switch mapping.state {
      case .there: leftovers.append(mapping)
      case .coming, .emptying: mapping.state = .unwanted
      case .unwanted, .going: break
      }
    }
    for mapping in leftovers { gone(mapping, true) }
    leftovers = []
  }

  // MARK: Mappings

  func map(_ resource: Resource, at offset: UInt64) throws(Mistake) -> Errand {
    let id = resource.id
    guard let offer = resource.offer, resource.isMappable, !resource.isTakenBack else {
      throw Mistake(
        .unspecified, .mapping,
        "RESOURCE_MAP_BLOB of resource \(id), \(resource.form), which "
          + (resource.isTakenBack ? "the host has taken back" : "is not mappable"))
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
      HostMapping(offset..<offset + offer.size, of: offer, in: resource),
      Errand(ifAbandoned: .error(.unspecified), longest: .mapInfo, by: .frontEnd, patience: patience)
    )
    resource.mapping = mapping
    mappings += 1
    do throws(LostNews) {
      guard let frontEnd else { throw LostNews("there is no front end") }
      _ = try offer.withDescriptor { fd throws(LostNews) in
        try frontEnd.map(fd, at: offset, length: mapping.length, writable: offer.isWritable) {
          [weak self] in
          self?.mapped(mapping, errand, $0)
        }
      }
    } catch {
      resource.mapping = nil
      mappings -= 1
      region.giveBack(mapping.range)
      mapping.letGo()
      throw Mistake(.unspecified, .mapping, "resource \(id) cannot be mapped: \(error)")
    }
    return errand
  }

  private func mapped(_ mapping: HostMapping, _ errand: Errand, _ isDone: Bool) {
    if errand.isAbandoned { mapping.state = .unwanted }
    let isWanted = mapping.state == .coming
    if !isDone {
      mistakes.report(
        .mapping, "the front end did not map \(mapping.length) bytes at \(hex(mapping.range.lowerBound))")
      gone(mapping, true)
    } else if isWanted {
      mapping.state = .there
      if mapping.isToBeEmptied { empty(mapping) }
    } else {
      takeAway(mapping)
    }
    errand.finish(isDone && isWanted ? .mapInfo : .error(.unspecified))
    heard()
  }

  func unmap(_ resource: Resource) throws(Mistake) -> Errand {
    let id = resource.id
    guard let mapping = resource.mapping, [.there, .emptying].contains(mapping.state) else {
      throw Mistake(.unspecified, .mapping, "RESOURCE_UNMAP_BLOB of resource \(id), which is not mapped")
    }
    let errand = Errand(ifAbandoned: .ok, by: .frontEnd, patience: patience)
    mapping.waitUntilGone(errand, failure: .error(.unspecified))
    if mapping.state == .emptying {
      mapping.state = .unwanted
      return errand
    }
    guard takeAway(mapping) else {
      throw Mistake(
        .unspecified, .mapping, "resource \(id) cannot be unmapped: the front end cannot be asked")
    }
    return errand
  }

  /// Asks the front end to take a mapping away, once the rings run.
  /// - Returns: false if the front end cannot be asked. Then the mapping counts as gone.
  @discardableResult
  private func takeAway(_ mapping: HostMapping) -> Bool {
    mapping.state = .going
    guard isRunning else {
      leftovers.append(mapping)
      return true
    }
    do throws(LostNews) {
      guard let frontEnd else { throw LostNews("there is no front end") }
      try frontEnd.unmap(at: mapping.range.lowerBound, length: mapping.length) {
        [weak self] in
        self?.gone(mapping, $0)
      }
      return true
    } catch {
      mistakes.report(.mapping, "\(mapping.length) bytes cannot be unmapped: \(error)")
      gone(mapping, false)
      return false
    }
  }

  private func takeAwayLeftovers() {
    let mappings = leftovers
    leftovers = []
    for mapping in mappings { takeAway(mapping) }
  }

  /// Puts zeros in a mapping's place. Asks the front end to unmap the pages and, without waiting, to map zeros, so that it does
  /// nothing in between.
  private func empty(_ mapping: HostMapping) {
    let zeros: Memfd
    do throws(LostNews) { zeros = try Self.zeros(mapping.length) } catch {
      mistakes.report(.mapping, "\(mapping.length) bytes that are taken back leave a hole: \(error)")
      takeAway(mapping)
      return
    }
    mapping.state = .emptying
    var isAsked = false
    do throws(LostNews) {
      guard let frontEnd else { throw LostNews("there is no front end") }
      try frontEnd.unmap(at: mapping.range.lowerBound, length: mapping.length) {
        [weak self] isDone in
        // If the front end refuses, it refuses the zeros too, and the pages stay where they are until the guest lets go.
        if isDone { mapping.letGo() }
        if mapping.isHole { self?.gone(mapping, isDone) }
        self?.heard()
      }
      isAsked = true
      try zeros.withDescriptor { fd throws(LostNews) in
        try frontEnd.map(fd, at: mapping.range.lowerBound, length: mapping.length, writable: true) {
          [weak self] in
          self?.emptied(mapping, $0)
        }
      }
    } catch {
      mistakes.report(.mapping, "no zeros take the place of \(mapping.length) bytes: \(error)")
      // The front end has the pages until it answers that it took them away.
      if isAsked { mapping.isHole = true } else { gone(mapping, false) }
    }
  }

  private static func zeros(_ size: UInt64) throws(LostNews) -> Memfd {
    do throws(Errno) {
      return try Memfd.create(name: "udmabridge-withdrawn", size: size, seals: [.shrink, .grow, .seal])
    } catch { throw LostNews("there is no memory for zeros: \(error)") }
  }

  private func emptied(_ mapping: HostMapping, _ isDone: Bool) {
    if !isDone {
      mistakes.report(
        .mapping, "the front end put no zeros in the place of \(mapping.length) bytes that were taken back")
      gone(mapping, true)
    } else if mapping.state == .emptying {
      mapping.state = .there
    } else {
      takeAway(mapping)
    }
    heard()
  }

  /// Called when a mapping is gone. Its place is free even if the front end could not take the mapping away: then the front end
  /// refuses the next mapping there.
  private func gone(_ mapping: HostMapping, _ isDone: Bool) {
    if let resource = mapping.resource, resource.mapping === mapping { resource.mapping = nil }
    region.giveBack(mapping.range)
    mappings -= 1
    mapping.letGo()
    mapping.isGone(isDone)
    heard()
  }
}
