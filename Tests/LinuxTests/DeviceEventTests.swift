import Linux
import SystemPackage
import Testing

@Suite struct DeviceEventTests {
  private func bytes(_ words: [String]) -> [UInt8] { words.flatMap { Array($0.utf8) + [0] } }

  @Test func reads() throws {
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

  @Test(arguments: [[], ["libudev"], ["change@/x", "NO EQUALS"]] as [[String]])
  func refuses(_ words: [String]) { #expect(DeviceEvent(bytes(words)) == nil) }

  @Test func withoutADeviceFile() throws {
    #expect(try #require(DeviceEvent(bytes(["add@/x", "MAJOR=1"]))).number == nil)
    #expect(try #require(DeviceEvent(bytes(["add@/x", "MAJOR=1", "MINOR=x"]))).number == nil)
  }

  /// Nobody has to be root to listen, and nothing is there at first.
  @Test func socket() throws {
    var socket = try DeviceEventSocket()
    #expect(socket.drain { _ in })
  }

  @Test func numberOfADevice() throws {
    #expect(try FD.open("/dev/null", writable: false).status().number == DeviceNumber(major: 1, minor: 3))
  }
}
