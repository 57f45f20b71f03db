// swift-tools-version: 6.3
import PackageDescription

// Every module is held to the same rules: unsafe code is marked where it stands, and a warning is an error.
let rules: [SwiftSetting] = [
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let log = Target.Dependency.product(name: "Logging", package: "swift-log")
let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")

// A target imports what it names here and nothing else: this list is the architecture.
func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: rules)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: dependencies, swiftSettings: rules)
}

let package = Package(
  name: "udmabridge",
  // The programs are no declared products: those would bring the names of all their modules into a client's package.
  // Here they are built all the same.
  products: [.library(name: "Udmabuf", targets: ["Udmabuf"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-system", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
  ],
  targets: [
    .target(name: "CUdmabuf"),
    module("Udmabuf", ["CUdmabuf", system]),
    .target(name: "CLinux", linkerSettings: [.linkedLibrary("dl")]),
    module("Linux", ["CLinux", "Udmabuf", system]),
    module("Guest", ["Linux", system]),
    module("Buffers", ["Linux", "Udmabuf", "Guest", system]),
    module("Scanout", ["Linux", "Udmabuf", system]),
    module("Pictures", ["Linux", "Buffers", "Scanout"]),
    module("Virtio", ["Linux", "Guest"]),
    module("VhostUser", ["Linux", "Guest", "Virtio", system, log]),
    module(
      "VirtioGPU", ["Linux", "Udmabuf", "Guest", "Virtio", "Buffers", "Scanout", "Pictures", system, log]),
    module("VhostUserGPU", ["Linux", "Guest", "Virtio", "VhostUser", "VirtioGPU", system, log]),
    .systemLibrary(name: "CDRM", pkgConfig: "libdrm", providers: [.apt(["libdrm-dev"])]),
    module("KMS", ["Linux", "Udmabuf", "Scanout", "CDRM", system, log]),
    module("Varlink", ["Linux", system]),
    module("DisplayProtocol", ["Linux", "Udmabuf", "Scanout", "Varlink", system]),
    module(
      "Consumers",
      ["Linux", "Udmabuf", "Scanout", "VhostUser", "Varlink", "DisplayProtocol", system, log]),
    module("LendingProtocol", ["Varlink"]),
    .target(name: "CVirtGPU"),
    module("GuestAgent", ["CVirtGPU", "Linux", "Udmabuf", "Varlink", "LendingProtocol", system]),
    module("Lending", ["Linux", "Buffers", "LendingProtocol", system]),
    module("Port", ["Linux", "Buffers", "Varlink", "LendingProtocol", "Lending", system, log]),
    module(
      "Presenting",
      ["Linux", "Udmabuf", "Guest", "Buffers", "Scanout", "Pictures", "Varlink", "DisplayProtocol", system]),
    .systemLibrary(name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
    module("Sandbox", ["CUdmabuf", "CLinux", "Linux", "CSeccomp", system]),
    module("QEMU", ["Linux", "Guest", system]),
    .systemLibrary(name: "CXML2", pkgConfig: "libxml-2.0", providers: [.apt(["libxml2-dev"])]),
    .target(name: "CLibvirt", linkerSettings: [.linkedLibrary("dl")]),
    module("DomainOptions", ["Linux", system]),
    module("Libvirt", ["CXML2", "CLibvirt", "Linux", "DomainOptions", "QEMU", system]),
    .systemLibrary(name: "CPNG", pkgConfig: "libpng", providers: [.apt(["libpng-dev"])]),
    module("Programs", []),
    .executableTarget(
      name: "udmabridge",
      dependencies: [
        "Programs", "Linux", "Udmabuf", "Guest", "Buffers", "Scanout", "KMS", "QEMU", "Varlink",
        "DisplayProtocol",
        "Presenting",
        "Sandbox", "DomainOptions", "Libvirt", "CPNG",
        system, log,
        arguments,
      ],
      swiftSettings: rules),
    .executableTarget(
      name: "vhost-user-udmabuf",
      dependencies: [
        "Programs", "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", "Scanout", "Pictures",
        "VirtioGPU",
        "VhostUserGPU",
        "KMS", "Varlink", "Consumers", "Sandbox", "DomainOptions", system, log, arguments,
      ],
      swiftSettings: rules),
    .executableTarget(
      name: "udmabridge-guest",
      dependencies: [
        "Programs", "GuestAgent", "Linux", "Udmabuf", "Varlink", "LendingProtocol", system, arguments,
      ],
      swiftSettings: rules),
    .target(
      name: "Fixtures",
      dependencies: [
        "CUdmabuf", "CLinux", "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", system, log,
      ],
      path: "Tests/Fixtures", swiftSettings: rules),
    tests("GuestTests", ["Linux", "Guest", "Fixtures", system]),
    tests("VirtioTests", ["Linux", "Guest", "Virtio", "Fixtures", system]),
    tests(
      "VhostUserTests",
      ["Linux", "Guest", "Virtio", "VhostUser", "Fixtures", "TestSupport", system, log]),
    .target(
      name: "TestSupport", dependencies: ["Linux", "Udmabuf", "CDRM", "Fixtures", system],
      path: "Tests/TestSupport",
      swiftSettings: rules),
    tests("UdmabufTests", ["CUdmabuf", "Linux", "Udmabuf", "TestSupport", system]),
    tests("LinuxTests", ["Linux", "Udmabuf", "TestSupport", system]),
    tests(
      "VirtioGPUTests",
      [
        "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", "Scanout", "Pictures", "VirtioGPU",
        "VhostUserGPU",
        "KMS", "Fixtures", "TestSupport", system, log,
      ]),
    tests(
      "VhostUserGPUTests",
      [
        "Linux", "Virtio", "VhostUser", "Buffers", "Scanout", "VirtioGPU", "VhostUserGPU", "Fixtures",
        "TestSupport", system, log,
      ]),
    tests("BuffersTests", ["Linux", "Udmabuf", "Guest", "Buffers", "Fixtures", "TestSupport", system]),
    tests("LendingTests", ["Linux", "Udmabuf", "Buffers", "LendingProtocol", "Lending", "Fixtures", system]),
