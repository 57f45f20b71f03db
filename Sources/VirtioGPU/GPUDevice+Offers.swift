package import Buffers

// Memory of the host that comes and goes while the guest runs.
extension GPUDevice {
  /// The guest may have it from now on. It fits in the region, and no other one has its id.
  package func add(_ offer: HostOffer) {
    precondition(hostRegion != nil, "offers are made to a device that has room for them")
    hostRegion?.add(offer)
  }

  /// There will be no new blobs of it. What the guest has of it stays.
  package func withdraw(_ offer: HostOffer) { hostRegion?.withdraw(offer) }

  /// Takes away what the guest still has of it: from the screens, and from where it is mapped, where zeros take its place. While
  /// the rings are stopped the mappings stay, until the rings run again.
  package func cutOff(_ offer: HostOffer) {
    offer.cutOff()
    for resource in resources.values where resource.offer === offer {
      _ = scanouts.giveBack(resource, keepingPicture: false)
    }
    takeBackMappings()
  }

  func takeBackMappings() {
    guard let hostRegion else { return }
    for resource in resources.values
    where resource.offer?.isCutOff == true && (hostRegion.isRunning || resource.mapping == nil) {
      hostRegion.takeBack(from: resource)
    }
  }
}
