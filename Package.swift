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

func tests(_ name: String, _ dependencies: [Target.Dependency], are settings: [SwiftSetting] = rules)
  -> Target
{
  .testTarget(name: name, dependencies: dependencies, swiftSettings: settings)
}

// Tests that compare pictures are optimised: they run in an emulated machine.
let quick = rules + [.unsafeFlags(["-O"], .when(configuration: .debug))]

let package = Package(
  name: "udmabridge",
  // The programs are no declared products: those would bring the names of all their modules into a client's package.
  // Here they are built all the same.
  products: [.library(name: "Udmabuf", targets: ["Udmabuf"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-system", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
    // For make docs.
    .package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.4.0"),
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
    module("Tracing", ["Programs", "Linux", "Guest", "Scanout", system]),
    module("Virtio", ["Linux", "Guest"]),
    module("VhostUser", ["Linux", "Guest", "Virtio", system, log]),
    module(
      "VirtioGPU",
      ["Linux", "Udmabuf", "Guest", "Virtio", "Buffers", "Scanout", "Pictures", "Tracing", system, log]),
    module("VhostUserGPU", ["Linux", "Guest", "Virtio", "VhostUser", "VirtioGPU", system, log]),
    .systemLibrary(name: "CDRM", pkgConfig: "libdrm", providers: [.apt(["libdrm-dev"])]),
    module("KMS", ["Linux", "Udmabuf", "Scanout", "CDRM", system, log]),
    module("Varlink", ["Linux", system]),
    module("DisplayProtocol", ["Linux", "Udmabuf", "Scanout", "Varlink", system]),
    module(
      "Consumers",
      ["Linux", "Udmabuf", "Scanout", "VhostUser", "Varlink", "DisplayProtocol", system, log]),
    module("LendingProtocol", ["Udmabuf", "Varlink", system]),
    .target(name: "CVirtGPU"),
    module("GuestAgent", ["CVirtGPU", "Linux", "Udmabuf", "Varlink", "LendingProtocol", system]),
    module("Lending", ["Linux", "Buffers", "LendingProtocol", system]),
    module("Port", ["Linux", "Buffers", "Varlink", "LendingProtocol", "Lending", system, log]),
    module(
      "LendingService", ["Linux", "Udmabuf", "Buffers", "Varlink", "LendingProtocol", "Lending", system]),
    module(
      "Presenting",
      ["Linux", "Udmabuf", "Guest", "Buffers", "Scanout", "Pictures", "Varlink", "DisplayProtocol", system]),
    module("Metrics", ["Linux", "DomainOptions", "Varlink", "DisplayProtocol", system]),
    module(
      "Recording", ["Linux", "Udmabuf", "Scanout", "Varlink", "DisplayProtocol", system]),
    module("Streaming", ["Linux", "Udmabuf", "Scanout", "Varlink", "DisplayProtocol", system]),
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
        "DisplayProtocol", "LendingProtocol",
        "Presenting", "Metrics", "Recording", "Streaming",
        "Sandbox", "DomainOptions", "Libvirt", "Tracing", "CPNG",
        system, log,
        arguments,
      ],
      swiftSettings: rules),
    .executableTarget(
      name: "vhost-user-udmabuf",
      dependencies: [
        "Programs", "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", "Scanout", "Pictures",
        "VirtioGPU",
        "VhostUserGPU", "Tracing",
        "KMS", "Varlink", "Consumers", "LendingProtocol", "Lending", "LendingService", "Port", "Sandbox",
        "DomainOptions", system,
        log, arguments,
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
        "CUdmabuf", "CLinux", "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", "Port",
        "LendingProtocol",
        "Lending", system, log,
      ],
      path: "Tests/Fixtures", swiftSettings: rules),
    tests("GuestTests", ["Linux", "Guest", "Fixtures", system]),
    tests("VirtioTests", ["Linux", "Guest", "Virtio", "Fixtures", system]),
    tests(
      "VhostUserTests",
      ["Linux", "Guest", "Virtio", "VhostUser", "Fixtures", "TestSupport", system, log]),
    .target(
      name: "TestSupport",
      dependencies: [
        "Linux", "Udmabuf", "Scanout", "Varlink", "DisplayProtocol", "Consumers", "CDRM", "Fixtures", system,
      ],
      path: "Tests/TestSupport",
      swiftSettings: quick),
    tests("UdmabufTests", ["CUdmabuf", "Linux", "Udmabuf", "TestSupport", system]),
    tests("LinuxTests", ["Linux", "Udmabuf", "TestSupport", system]),
    tests(
      "VirtioGPUTests",
      [
        "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", "Scanout", "Pictures", "VirtioGPU",
        "VhostUserGPU", "Tracing",
        "KMS", "Fixtures", "TestSupport", "udmabridge", system, log,
      ]),
    tests(
      "VhostUserGPUTests",
      [
        "Linux", "Virtio", "VhostUser", "Buffers", "Scanout", "VirtioGPU", "VhostUserGPU", "Fixtures",
        "TestSupport", system, log,
      ]),
    tests("BuffersTests", ["Linux", "Udmabuf", "Guest", "Buffers", "Fixtures", "TestSupport", system]),
    tests("LendingTests", ["Linux", "Udmabuf", "Buffers", "LendingProtocol", "Lending", "Fixtures", system]),
    tests(
      "PortTests",
      [
        "Linux", "Udmabuf", "Buffers", "Varlink", "LendingProtocol", "Lending", "Port", "Fixtures",
        "TestSupport",
        system, log,
      ]),
    tests("DisplayProtocolTests", ["Linux", "Varlink", "DisplayProtocol", "TestSupport", system]),
    tests("VarlinkTests", ["Linux", "Varlink", "Fixtures", "TestSupport", system]),
    tests(
      "ConsumersTests",
      [
        "Linux", "Udmabuf", "Scanout", "VhostUser", "Varlink", "DisplayProtocol", "Consumers", "Fixtures",
        "TestSupport", system, log,
      ]),
    tests(
      "MetricsTests",
      [
        "Linux", "Udmabuf", "Buffers", "Varlink", "DisplayProtocol", "Lending", "Port", "Metrics", "Fixtures",
        "TestSupport", "udmabridge", system,
      ]),
    tests(
      "PresentingTests",
      ["Linux", "Scanout", "Varlink", "DisplayProtocol", "Consumers", "Presenting", "TestSupport", system]),
    tests(
      "RecordingTests",
      ["Linux", "Udmabuf", "Scanout", "Varlink", "DisplayProtocol", "Recording", "TestSupport", system]),
    tests(
      "StreamingTests",
      [
        "Linux", "Scanout", "Varlink", "DisplayProtocol", "Consumers", "Streaming", "TestSupport", system,
      ]),
    tests(
      "LendingServiceTests",
      [
        "Linux", "Udmabuf", "Guest", "Buffers", "Varlink", "LendingProtocol", "Lending", "KMS",
        "LendingService",
        "Fixtures", "TestSupport", "udmabridge", system,
      ]),
    tests("ScanoutTests", ["Linux", "Udmabuf", "Scanout", system]),
    tests("TracingTests", ["Linux", "Guest", "Scanout", "Tracing", "Fixtures", "TestSupport", system]),
    tests(
      "HelperTests",
      [
        "Linux", "Buffers", "Guest", "CSeccomp", "Fixtures", "TestSupport", "udmabridge",
        "vhost-user-udmabuf", system,
      ]),
    .executableTarget(
      name: "lend-pages", dependencies: ["Udmabuf"], path: "examples/lend-pages",
      swiftSettings: rules),
    .executableTarget(
      name: "stranger", dependencies: ["CDRM"], path: "Tests/Stranger", cSettings: [.define("_GNU_SOURCE")]),
    tests("QEMUTests", ["Linux", "Guest", "QEMU", "TestSupport", system]),
    tests(
      "ToolTests",
      [
        "Programs", "Linux", "QEMU", "Libvirt", "Fixtures", "TestSupport", "udmabridge",
        "vhost-user-udmabuf", "lend-pages", "stranger", system,
      ]),
    tests(
      "RepositoryTests",
      [
        "Programs", "Linux", "QEMU", "Varlink", "Presenting", "DomainOptions", "Libvirt", "TestSupport",
        "udmabridge", "vhost-user-udmabuf", "udmabridge-guest", "lend-pages", system,
      ]),
    tests("LibvirtTests", ["Linux", "DomainOptions", "Libvirt", "TestSupport", "udmabridge", system]),
    .target(name: "RawCall", path: "Tests/RawCall"),
    tests("SandboxTests", ["CUdmabuf", "CLinux", "CSeccomp", "Sandbox", "RawCall"]),
    tests(
      "EndToEndTests",
      [
        "Linux", "Udmabuf", "CDRM", "CPNG", "GuestAgent", "Fixtures", "TestSupport", "vhost-user-udmabuf",
        system,
      ],
      are: quick),
    tests(
      "GuestAgentTests",
      ["Linux", "Udmabuf", "Varlink", "LendingProtocol", "GuestAgent", "Fixtures", "TestSupport", system]),
    tests(
      "KMSTests", ["Linux", "Udmabuf", "Scanout", "KMS", "CDRM", "TestSupport", system, log], are: quick),
    .target(name: "CBench", path: "Benchmarks/CBench"),
    .executableTarget(name: "bench-create", path: "Benchmarks/CCreate"),
    .executableTarget(
      name: "bench-listen", dependencies: ["CDRM", "CSeccomp"], path: "Benchmarks/CListen",
      linkerSettings: [.linkedLibrary("m"), .linkedLibrary("stdc++")]),
    .executableTarget(
      name: "bench",
      dependencies: [
        "CBench", "Linux", "Udmabuf", "Guest", "Virtio", "Buffers", "Scanout", "Pictures", "VirtioGPU",
        "Varlink", "DisplayProtocol", "Consumers", "LendingProtocol", "Lending",
        "LendingService", "Port", "Fixtures", system, log,
      ],
      path: "Benchmarks/bench", swiftSettings: rules),
  ]
)

// libFuzzer brings a main function of its own, and instruments every module: `Fuzz/run` builds these apart.
if Context.environment["UDMABRIDGE_FUZZ"] != nil {
  package.targets += [
    .target(name: "CFuzz", path: "Fuzz/CFuzz"),
    .executableTarget(
      name: "fuzz",
      dependencies: [
        "CFuzz", "Linux", "Udmabuf", "Guest", "Virtio", "VhostUser", "Buffers", "Scanout", "Pictures",
        "VirtioGPU", "VhostUserGPU", "Varlink", "DisplayProtocol", "Consumers", "LendingProtocol", "Lending",
        "LendingService", "Port", "Streaming", "Tracing", "Fixtures", system, log,
      ],
      path: "Fuzz/Targets", swiftSettings: rules),
  ]
}
