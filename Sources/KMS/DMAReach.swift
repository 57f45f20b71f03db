internal import Linux
internal import SystemPackage

/// Whether a card's device reaches all of the host's RAM by itself, as far as the kernel tells.
///
/// A device that does not is given a copy of what its driver imports (swiotlb). A udmabuf's copy is made at the import and,
/// from Linux 7.2 on, never again (`DMA_ATTR_SKIP_CPU_SYNC`): the card would show one picture for ever. Up to 7.1 the copy was
/// written back when the driver let go.
struct DMAReach: Equatable {
  /// How many bits the addresses have that the device can use.
  var bits: Int
  /// An IOMMU stands before it, and gives it addresses of its own.
  var isTranslated: Bool
  /// The address behind the host's RAM; nil if it is not known.
  var ramEnd: UInt64?
  /// Everything is copied, whatever the addresses (`swiotlb=force`).
  var isForced: Bool
  /// Of the kernel, such as `7.3.4`.
  var release: String

  /// The bits that each device begins with. The kernel tells for PCI devices alone how many their drivers made of them.
  private static let firstBits = 32
  /// A device of virtio or USB works through the PCI device above it, which is fewer than this many steps away.
  private static let steps = 12

  /// Asks about the device of a card.
  /// - Parameter root: of the file system.
  init(_ card: DeviceNumber, root: FilePath = "/") {
    func text(_ path: String) -> String? { try? readText(root.appending(path)) }
    let device = "sys/dev/char/\(card.major):\(card.minor)/device"
    var (place, bits) = (device, Int?.none)
    for step in 0..<Self.steps where bits == nil {
      place = device + String(repeating: "/..", count: step)
      bits = text(place + "/dma_mask_bits").flatMap { Int($0.prefix(while: \.isNumber)) }
    }
    if bits == nil { place = device }
    self.bits = bits ?? Self.firstBits
    // "identity" is an IOMMU that leaves addresses as they are.
    isTranslated = text(place + "/iommu_group/type")?.hasPrefix("DMA") ?? false
    ramEnd = text("proc/zoneinfo").flatMap(Self.ramEnd(zones:))
    isForced =
      text("proc/cmdline")?.split(whereSeparator: \.isWhitespace).contains { word in
        word.hasPrefix("swiotlb=") && word.dropFirst(8).split(separator: ",").contains("force")
      } ?? false
    release = text("proc/sys/kernel/osrelease") ?? ""
  }

  init(bits: Int, isTranslated: Bool, ramEnd: UInt64?, isForced: Bool = false, release: String) {
    (self.bits, self.isTranslated, self.ramEnd) = (bits, isTranslated, ramEnd)
    (self.isForced, self.release) = (isForced, release)
  }

  /// Finds the end of the highest zone with RAM in `/proc/zoneinfo`, which every user may read.
  static func ramEnd(zones text: String) -> UInt64? {
    var (zone, spanned, present) = (Substring(), UInt64(0), UInt64(0))
    var end: UInt64?
    for line in text.split(separator: "\n") {
      let words = line.split { $0 == " " || $0 == ":" }
      guard words.count >= 2, let last = words.last else { continue }
      switch words[0] {
      case "Node": (zone, spanned, present) = (last, 0, 0)
      case "spanned": spanned = UInt64(last) ?? 0
      case "present": present = UInt64(last) ?? 0
      // The zone "Device" is memory of a device.
      case "start_pfn" where present > 0 && zone != "Device":
        end = max(end ?? 0, ((UInt64(last) ?? 0) + spanned) * systemPageSize)
      default: break
      }
    }
    return end
  }

  /// Why the device would be given copies of what this driver imports; nil if nothing says so.
  func shortfall(of driver: String) -> String? {
    if isTranslated || Self.importsWithoutMapping(driver, release) { return nil }
    if isForced { return "is given copies of all memory (swiotlb=force on the kernel's command line)" }
    guard let ramEnd, bits < 64, !Self.driversOfWideDevices.contains(driver),
      ramEnd > 1 << UInt64(max(0, bits))
    else { return nil }
    return "has addresses of \(bits) bits, and this host has RAM up to \(hex(ramEnd)) and no IOMMU for it"
  }

  // MARK: Drivers

  /// Drivers that read what they import by the CPU and map it for no device. Their `struct drm_driver` has
  /// DRM_GEM_SHMEM_DRIVER_OPS, which stands for `drm_gem_shmem_prime_import_no_map` from Linux 6.17 on
  /// (include/drm/drm_gem_shmem_helper.h). A device's reach means nothing for them. Sources in drivers/gpu/drm.
  private static let driversWithoutMapping: Set = [
    "ast",  // ast/ast_drv.c
    "bochs-drm",  // tiny/bochs.c
    "cirrus-qemu",  // tiny/cirrus-qemu.c
    "efidrm",  // sysfb/efidrm.c
    "hyperv_drm",  // hyperv/hyperv_drm_drv.c
    "mgag200",  // mgag200/mgag200_drv.c
    "simpledrm",  // sysfb/simpledrm.c
    "udl",  // udl/udl_drv.c
    "vesadrm",  // sysfb/vesadrm.c
    "vkms",  // vkms/vkms_drv.c
  ]

  /// Drivers that give their platform device addresses of 64 bits, which no file says. Sources in drivers/gpu/drm.
  private static let driversOfWideDevices: Set = [
    "vgem"  // vgem/vgem_drv.c
  ]

  private static func importsWithoutMapping(_ driver: String, _ release: String) -> Bool {
    let numbers = release.split(separator: ".").prefix(2).map { Int($0.prefix(while: \.isNumber)) ?? 0 }
    guard numbers.count == 2, (numbers[0], numbers[1]) >= (6, 17) else { return false }
    return driversWithoutMapping.contains(driver)
  }
}
