import Foundation
import Linux
import SystemPackage
import TestSupport
import Testing

@testable import KMS

/// What the kernel says of devices and memory, in files as it makes them.
@Suite struct DMAReachTests {
  /// A tree with a card 226:0 whose device is `device`, below /sys/devices.
  private func host(_ device: String, _ files: [String: String]) throws -> FilePath {
    let root = try makeTemporaryDirectory()
    func write(_ text: String, _ path: String) throws {
      let file = root.appending(path)
      try FileManager.default.createDirectory(
        atPath: file.removingLastComponent().string, withIntermediateDirectories: true)
      try Data(text.utf8).write(to: URL(fileURLWithPath: file.string))
    }
    try write("", "sys/devices/\(device)/uevent")
    try write("", "sys/dev/char/226:0/uevent")
    try FileManager.default.createSymbolicLink(
      atPath: root.appending("sys/dev/char/226:0/device").string,
      withDestinationPath: root.appending("sys/devices/\(device)").string)
    for (path, text) in files { try write(text, path) }
    return root
  }

  /// As `/proc/zoneinfo` is, shortened: 4 GiB with a hole below, `pages` above, and memory of a device behind that.
  private func zones(above pages: UInt64) -> String {
    func zone(_ name: String, _ spanned: UInt64, _ present: UInt64, _ start: UInt64) -> String {
      """
      Node 0, zone \(name)
        pages free     3
              spanned  \(spanned)
              present  \(present)
              managed  \(present)
        start_pfn:           \(start)

      """
    }
    return zone("     DMA", 4095, 3998, 1) + zone("   DMA32", 1_044_480, 782_336, 4096)
      + zone("  Normal", pages, pages, 1 << 20)
      + "Node 0, zone  Movable\n  pages free     0\n        spanned  0\n        present  0\n        managed  0\n"
      + zone("  Device", 1 << 20, 1 << 20, 1 << 30)
  }

  private let pci = "pci0000:00/0000:00:02.0"
  private let card = DeviceNumber(major: 226, minor: 0)

  struct Place: CustomTestStringConvertible {
    let testDescription: String
    let device: String
    let files: [String: String]
    let bits: Int
    let isTranslated: Bool
  }

  static let places = [
    Place(
      testDescription: "a PCI device", device: "pci0000:00/0000:00:02.0",
      files: ["sys/devices/pci0000:00/0000:00:02.0/dma_mask_bits": "39\n"], bits: 39, isTranslated: false),
    Place(
      testDescription: "behind an IOMMU", device: "pci0000:00/0000:00:02.0",
      files: [
        "sys/devices/pci0000:00/0000:00:02.0/dma_mask_bits": "32\n",
        "sys/devices/pci0000:00/0000:00:02.0/iommu_group/type": "DMA-FQ\n",
      ], bits: 32, isTranslated: true),
    Place(
      testDescription: "behind an IOMMU that leaves addresses alone", device: "pci0000:00/0000:00:02.0",
      files: [
        "sys/devices/pci0000:00/0000:00:02.0/dma_mask_bits": "32\n",
        "sys/devices/pci0000:00/0000:00:02.0/iommu_group/type": "identity\n",
      ], bits: 32, isTranslated: false),
    Place(
      testDescription: "a virtio device", device: "pci0000:00/0000:00:02.0/virtio3",
      files: ["sys/devices/pci0000:00/0000:00:02.0/dma_mask_bits": "64\n"], bits: 64, isTranslated: false),
    Place(
      testDescription: "a display at a USB hub", device: "pci0000:00/0000:00:14.0/usb1/1-1/1-1.2/1-1.2:1.0",
      files: [
        "sys/devices/pci0000:00/0000:00:14.0/dma_mask_bits": "64\n",
        "sys/devices/pci0000:00/0000:00:14.0/iommu_group/type": "DMA\n",
      ], bits: 64, isTranslated: true),
    Place(
      testDescription: "a platform device, of which nothing is told", device: "platform/soc/display",
      files: [:],
      bits: 32, isTranslated: false),
    Place(
      testDescription: "a platform device behind an IOMMU", device: "platform/soc/display",
      files: ["sys/devices/platform/soc/display/iommu_group/type": "DMA\n"], bits: 32, isTranslated: true),
  ]

  @Test("the width of a device's addresses, and its IOMMU, are read from sysfs", arguments: places)
  func device(_ place: Place) throws {
    let root = try host(place.device, place.files)
    let reach = DMAReach(card, root: root)
    #expect(reach.bits == place.bits && reach.isTranslated == place.isTranslated)
  }

  @Test("the end of the host's RAM, the release and swiotlb=force are read from procfs") func memory() throws
  {
    let files = [
      "proc/zoneinfo": zones(above: 524_288), "proc/sys/kernel/osrelease": "7.3.4+deb13-amd64\n",
      "proc/cmdline": "ro quiet swiotlb=65536,force\n",
    ]
    let reach = DMAReach(card, root: try host(pci, files))
    // 4 GiB and 524288 pages of 4 KiB.
    #expect(reach.ramEnd == (1 << 20 + 524_288) * systemPageSize)
    #expect(reach.isForced && reach.release.hasPrefix("7.3.4"))
    let none = DMAReach(card, root: try host(pci, ["proc/cmdline": "swiotlb=noforce"]))
    #expect(none.ramEnd == nil && !none.isForced)
    // Nothing above: the hole below 4 GiB ends the RAM.
    #expect(DMAReach.ramEnd(zones: zones(above: 0)) == (4096 + 1_044_480) * systemPageSize)
  }

  static let sixGiB: UInt64 = 0x1_c000_0000

  @Test(
    "a device that cannot reach all RAM gets copies if its driver maps imports and no IOMMU helps",
    arguments: [
      // The driver's name, the kernel, bits, RAM's end, an IOMMU: copies or not.
      ("cirrus", "6.12.95+deb12-amd64", 32, sixGiB, false, true),
      ("cirrus", "6.12.95+deb12-amd64", 32, sixGiB, true, false),
      ("cirrus", "6.12.95+deb12-amd64", 32, 1 << 32, false, false),
      ("bochs-drm", "7.3.4+deb13-amd64", 32, sixGiB, false, false),
      // Its driver mapped what it imported until 6.16.
      ("bochs-drm", "6.16.12", 32, sixGiB, false, true),
      ("bochs-drm", "6.17.0-rc1", 32, sixGiB, false, false),
      ("radeon", "7.3.4", 40, sixGiB, false, false), ("radeon", "7.3.4", 40, 1 << 41, false, true),
      ("radeon", "7.3.4", 32, sixGiB, false, true), ("amdgpu", "7.3.4", 64, .max, false, false),
      ("a driver that nobody knows", "", 32, sixGiB, false, true),
      // A platform device, which says nothing of its 64 bits.
      ("vgem", "7.3.4", 32, sixGiB, false, false),
    ] as [(String, String, Int, UInt64, Bool, Bool)])
  func copies(
    _ driver: String, _ release: String, _ bits: Int, _ end: UInt64, _ isTranslated: Bool, _ copies: Bool
  ) {
    let reach = DMAReach(bits: bits, isTranslated: isTranslated, ramEnd: end, release: release)
    let shortfall = reach.shortfall(of: driver)
    #expect((shortfall != nil) == copies)
    if let shortfall { #expect(shortfall.contains("\(bits) bits") && shortfall.contains(hex(end))) }
  }

  @Test("swiotlb=force gives copies to devices without an IOMMU whose driver maps imports")
  func forcedCopies() {
    var reach = DMAReach(bits: 64, isTranslated: false, ramEnd: Self.sixGiB, isForced: true, release: "7.3.4")
    #expect(reach.shortfall(of: "amdgpu")?.contains("swiotlb=force") == true)
    #expect(reach.shortfall(of: "bochs-drm") == nil)
    reach.isTranslated = true
    #expect(reach.shortfall(of: "amdgpu") == nil)
  }
}
