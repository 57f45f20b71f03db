internal import Linux
internal import SystemPackage

/// Whether a card's device can address all of the host's RAM, as far as the kernel tells.
///
/// If the device cannot, the kernel gives it a copy of each import (swiotlb). The kernel copies a udmabuf at the
/// import and, from Linux 7.2 on, never again (`DMA_ATTR_SKIP_CPU_SYNC`), so the card would show one picture for
/// ever. Up to 7.1 it wrote the copy back when the driver released the import.
struct DMAReach: Equatable {
  /// The width in bits of the addresses that the device can use.
  var bits: Int
  /// Whether an IOMMU translates the device's addresses.
  var isTranslated: Bool
  /// The first address after the host's RAM; nil if unknown.
  var ramEnd: UInt64?
  /// Whether the kernel copies everything, whatever the addresses (`swiotlb=force`).
  var isForced: Bool
  /// The kernel's release, such as `7.3.4`.
  var release: String

  /// The width that each device begins with. Only for PCI devices does the kernel tell the width that the driver has
  /// set.
  private static let firstBits = 32
  /// A virtio or USB device does DMA through the PCI device above it, fewer than this many steps away.
  private static let steps = 12

  /// Reads the facts about a card's device.
  /// - Parameter root: the root of the file system.
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
    // An IOMMU of the type "identity" leaves addresses as they are.
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

  /// Why the kernel would give the device copies of this driver's imports; nil if nothing says so.
  func shortfall(of driver: String) -> String? {
    if isTranslated || Self.importsWithoutMapping(driver, release) { return nil }
    if isForced { return "is given copies of all memory (swiotlb=force on the kernel's command line)" }
    guard let ramEnd, bits < 64, !Self.driversOfWideDevices.contains(driver),
      ramEnd > 1 << UInt64(max(0, bits))
    else { return nil }
    return "has addresses of \(bits) bits, and this host has RAM up to \(hex(ramEnd)) and no IOMMU for it"
  }

  // MARK: Drivers

  /// Drivers that read their imports with the CPU and map them for no device. Their `struct drm_driver` has
  /// DRM_GEM_SHMEM_DRIVER_OPS, which means `drm_gem_shmem_prime_import_no_map` from Linux 6.17 on
  /// (include/drm/drm_gem_shmem_helper.h). The device's reach does not matter for them. Sources in drivers/gpu/drm.
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

  /// Drivers that let their platform device use 64-bit addresses. No file tells this. Sources in drivers/gpu/drm.
  private static let driversOfWideDevices: Set = [
    "vgem"  // vgem/vgem_drv.c
  ]

  private static func importsWithoutMapping(_ driver: String, _ release: String) -> Bool {
    let numbers = release.split(separator: ".").prefix(2).map { Int($0.prefix(while: \.isNumber)) ?? 0 }
    guard numbers.count == 2, (numbers[0], numbers[1]) >= (6, 17) else { return false }
    return driversWithoutMapping.contains(driver)
  }
}
