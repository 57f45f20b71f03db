// swift-tools-version: 6.3
import PackageDescription

// A user of the library, with what users have beside it: a module `Linux` of their own, Foundation and NIO.
let package = Package(
  name: "client",
  dependencies: [
    .package(name: "udmabridge", path: "../.."),
    .package(url: "https://github.com/apple/swift-nio", from: "2.60.0"),
  ],
  targets: [
    .target(name: "Linux", swiftSettings: [.treatAllWarnings(as: .error)]),
    .executableTarget(
      name: "client",
      dependencies: [
        "Linux", .product(name: "Udmabuf", package: "udmabridge"),
        .product(name: "NIOCore", package: "swift-nio"),
      ],
      swiftSettings: [.treatAllWarnings(as: .error)]),
  ]
)
