import Linux
import SystemPackage
import Testing

@Suite struct DeviceEventTests {
  private func bytes(_ words: [String]) -> [UInt8] { words.flatMap { Array($0.utf8) + [0] } }

  @Test("an announcement of the kernel is read") func reads() throws {
    let event = try #require(
      DeviceEvent(
        bytes([
          "change@/devices/pci0000:00/drm/card0", "ACTION=change", "SUBSYSTEM=drm", "HOTPLUG=1", "MAJOR=226",
          "MINOR=0", "EMPTY=", "EQUALS=a=b",
        ])))
    #expect(event["ACTION"] == "change" && event["SUBSYSTEM"] == "drm" && event["HOTPLUG"] == "1")
    #expect(event["EMPTY"] == "" && event["EQUALS"] == "a=b" && event["NONE"] == nil)
    #expect(event.number == DeviceNumber(major: 226, minor: 0))
  }

  @Test(
    "anything else is not read as an announcement",
    arguments: [[], ["libudev"], ["change@/x", "NO EQUALS"]] as [[String]])
  func refuses(_ words: [String]) { #expect(DeviceEvent(bytes(words)) == nil) }

  @Test("a device without a file has no numbers") func withoutADeviceFile() throws {
    #expect(try #require(DeviceEvent(bytes(["add@/x", "MAJOR=1"]))).number == nil)
    #expect(try #require(DeviceEvent(bytes(["add@/x", "MAJOR=1", "MINOR=x"]))).number == nil)
  }

  /// Nobody has to be root to listen, and nothing is there at first.
  @Test("any user may listen, and nothing is there at first") func socket() throws {
    var socket = try DeviceEventSocket()
    #expect(socket.drain { _ in })
  }

  @Test("a device file's number has its major and its minor number") func numberOfADevice() throws {
    #expect(try FD.open("/dev/null", writable: false).status().number == DeviceNumber(major: 1, minor: 3))
  }
}
