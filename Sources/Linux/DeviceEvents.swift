internal import CLinux
package import SystemPackage

/// An announcement of the kernel that a device came, changed, or went (a uevent).
package struct DeviceEvent: Equatable, Sendable {
  private let values: [String: String]

  /// Reads `ACTION@PATH` and the `KEY=VALUE` strings behind it, each with a zero byte at its end; nil for anything else.
  package init?(_ bytes: some Sequence<UInt8>) {
    let words = bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    guard let first = words.first, first.contains("@") else { return nil }
    var values: [String: String] = [:]
    for word in words.dropFirst() {
      guard let equals = word.firstIndex(of: "=") else { return nil }
      values[String(word[..<equals])] = String(word[word.index(after: equals)...])
    }
    self.values = values
  }

  /// The value of a key, such as `DEVNAME`; nil if there is none.
  package subscript(_ key: String) -> String? { values[key] }

  /// The device's numbers, if it has a device file.
  package var number: DeviceNumber? {
    guard let major = values["MAJOR"].flatMap({ UInt64($0) }),
      let minor = values["MINOR"].flatMap({ UInt64($0) })
    else { return nil }
    return DeviceNumber(major: major, minor: minor)
  }
}

/// Receives the kernel's announcements about devices. This needs no privilege. A process in a network namespace of its
/// own receives none.
package struct DeviceEventSocket: ~Copyable {
  /// The buffer's size in bytes. The kernel's announcements are shorter (`UEVENT_BUFFER_SIZE`, and its header).
  private static let capacity = 8192
  /// At most this many are taken at once, before other sources of the loop have their turn.
  private static let batch = 256

  /// Readable when there is an announcement.
  package let fd: FD
  private var buffer = [UInt8](repeating: 0, count: capacity)

  /// The corresponding C function is `socket` with `NETLINK_KOBJECT_UEVENT`.
  package init() throws(Errno) { fd = FD(adopting: try retrying { cl_uevent_socket() }) }

  /// Takes the announcements that have come, and ignores those that the kernel did not send.
  /// - Returns: false if the kernel dropped some because there was no room.
  package mutating func drain(_ handle: (DeviceEvent) -> Void) -> Bool {
    for _ in 0..<Self.batch {
      do throws(Errno) {
        var genuine: CInt = 0
        let count = try fd.withRaw { raw throws(Errno) in
          try retrying {
            unsafe buffer.withUnsafeMutableBytes {
              unsafe cl_uevent_receive(raw, $0.baseAddress, $0.count, &genuine)
            }
          }
        }
        if genuine != 0, let event = DeviceEvent(buffer.prefix(count)) { handle(event) }
      } catch { return error == .wouldBlock }
    }
    return true
  }
}
