import CDRM
import Linux
import Logging
import Scanout
import SystemPackage
import TestSupport
import Testing
import Udmabuf

@testable import KMS

/// What a card or somebody else does to the sink, on the test host's card.
@Suite(.testHost, .serialized) struct KMSFaultTests {
  /// The card has accepted the flip to the next frame, but still reads this one.
  @Test(
    "a frame that the card still reads until the next flip is forgotten only after it",
    arguments: [true, false]) func forgetsWhatIsStillScannedOut(atomic: Bool) throws
  {
    let stage = try Stage(atomic: atomic)
    let (one, two) = (try stage.picture(1), try stage.picture(2))
    try stage.show(one)
    let sequence = stage.present(two)
    #expect(stage.sink.lanes[0].awaited != nil, "the flip is under way")
    stage.sink.forget(one.frame)
    #expect(stage.sink.lanes[0].awaited == nil, "the flip was waited for")
    #expect(one.frame.uses == 0)
    #expect(stage.recorder.presented.last != sequence, "told from the event loop alone")
    try stage.wait { stage.recorder.presented.last == sequence }
    #expect(try Witness().shownInode() == two.dmabuf.inode)
    #expect(stage.recorder.failed.isEmpty)
  }

  /// A frame that waits for the card to be ready has not taken the place of the one on the screen.
  @Test("a frame that waits for the card is forgotten without a change on the screen")
  func forgetsWhatWasNotStarted() throws {
    let stage = try Stage()
    let (one, two) = (try stage.picture(1), try stage.picture(2))
    try stage.show(one)
    stage.sink.card.dropMaster()
    let sequence = stage.present(two)
    stage.sink.forget(two.frame)
    #expect(one.frame.uses == 1 && two.frame.uses == 0, "the first one is still on the screen")
    try stage.wait { stage.recorder.failed.last?.sequence == sequence }
    #expect(try Witness().shownInode() == one.dmabuf.inode)
    try stage.sink.card.becomeMaster()
    try stage.show(one)
  }

  /// Another master has the card for a while and shows what it likes, as after a switch of the terminal.
  @Test("after another master has had the card, frames are shown again", arguments: [true, false])
  func masterTakenByAnother(presentsMeanwhile: Bool) throws {
    let stage = try Stage()
    let picture = try stage.picture(1)
    try stage.show(picture)
    stage.sink.card.dropMaster()
    do {
      let other = try Stage()
      let size = try #require(other.sink.outputs[0].modes.last)
      let theirs = try other.copy(2, UInt32(size.hdisplay), UInt32(size.vdisplay))
      try other.show(theirs)
      if presentsMeanwhile {
        let sequence = stage.present(picture)
        try stage.wait { stage.recorder.failed.last?.sequence == sequence }
        let error = try #require(stage.recorder.failed.last?.error)
        #expect(error.refusal == .busy && error.description.contains("another process is DRM master now"))
      }
      #expect(try Screenshot().wrongRows(2) == 0)
      // It is gone without putting anything back.
      other.sink.card.dropMaster()
    }
    try stage.sink.card.becomeMaster()
    try stage.show(picture)
    let screen = try Screenshot()
    #expect(screen.width == picture.layout.width && screen.wrongRows(1) == 0)
  }

  /// A screen that ought to be dark becomes dark as soon as the card lets us.
  @Test("a screen that could not be turned off is tried again") func turnOffIsTriedAgain() throws {
    let stage = try Stage()
    let picture = try stage.picture(1)
    try stage.show(picture)
    stage.sink.card.dropMaster()
    stage.sink.turnOff(ScanoutID(0))
    try stage.wait { stage.sink.lanes[0].refusedTurnOffs > 1 }
    #expect(picture.frame.uses == 1)
    try stage.sink.card.becomeMaster()
    try stage.wait { picture.frame.uses == 0 }
    #expect(try Witness().crtc.mode_valid == 0)
    // What is to be shown then ends the trying.
    try stage.show(picture)
    stage.sink.card.dropMaster()
    stage.sink.turnOff(ScanoutID(0))
    try stage.wait { stage.sink.lanes[0].refusedTurnOffs > 0 }
    try stage.sink.card.becomeMaster()
    try stage.show(picture)
    #expect(try Witness().shownInode() == picture.dmabuf.inode)
  }

  /// Has a driver let go of a device, or take it: files that can only be written.
  private func tell(_ driver: FilePath, _ what: String, _ device: String) throws {
    try #require(run("/bin/sh", ["-c", "echo \(device) >\(driver)/\(what)"]).status == 0)
  }

  /// The driver lets go of the card while it shows something.
  @Test("an unplugged card ends every frame's use, and each presentation is reported") func cardUnplugged()
    throws
  {
    let device = resolvingLinks("/sys/class/drm/card0/device")
    let driver = resolvingLinks(device.appending("driver"))
    let name = try #require(device.lastComponent?.string)
    do {
      let stage = try Stage()
      let (one, two) = (try stage.picture(1), try stage.picture(2))
      try stage.show(one)
      let sequences = [stage.present(two), stage.present(one)]
      stage.recorder.failed.removeAll()
      try tell(driver, "unbind", name)
      try stage.wait { stage.recorder.changes == 1 }
      #expect(stage.sink.outputs.count == 1 && stage.sink.outputs[0].modes.isEmpty)
      #expect(one.frame.uses == 0 && two.frame.uses == 0)
      let ends = Set(stage.recorder.presented + stage.recorder.failed.map(\.sequence))
      #expect(ends.isSuperset(of: sequences), "each was told")
      // What comes now fails too, and from the loop.
      let late = stage.present(one)
      #expect(stage.recorder.failed.last?.sequence != late)
      try stage.wait { stage.recorder.failed.last?.sequence == late }
      #expect(stage.recorder.failed.last?.error.refusal == .disconnected)
      stage.sink.turnOff(ScanoutID(0))
      stage.sink.forget(one.frame)
      let error = #expect(throws: SinkError.self) { try stage.prepare(two) }
      #expect(error?.refusal == .disconnected)
    }
    try tell(driver, "bind", name)
    let stage = try Stage()
    try stage.show(stage.picture(3))
    #expect(try Screenshot().wrongRows(3) == 0)
  }

  /// A commit is what tells that the card is gone, where the kernel's announcements do not arrive.
  @Test("without the kernel's announcement, a commit finds out that the card is gone")
  func cardUnpluggedUnheard() throws {
    let device = resolvingLinks("/sys/class/drm/card0/device")
    let driver = resolvingLinks(device.appending("driver"))
    let name = try #require(device.lastComponent?.string)
    do {
      let stage = try Stage()
      let picture = try stage.picture(1)
      try stage.show(picture)
      if let token = stage.sink.hotplugToken.take(), let socket = stage.sink.hotplug.take() {
        stage.loop.remove(token, socket.fd)
      }
      try tell(driver, "unbind", name)
      let sequence = stage.present(picture)
      try stage.wait { stage.recorder.failed.last?.sequence == sequence }
      #expect(stage.recorder.failed.last?.error.refusal == .disconnected)
      #expect(picture.frame.uses == 0 && stage.recorder.changes == 1)
    }
    try tell(driver, "bind", name)
    let stage = try Stage()
    try stage.show(stage.picture(3))
  }

  // MARK: Screens that come and go

  @Test("a screen that is plugged out and in is reported, and shows again") func screenPluggedOutAndIn()
    throws
  {
    let name = try #require(try KMSCard(Stage.path).connectors.first?.name)
    let stage = try Stage()
    let before = stage.sink.outputs
    let picture = try stage.picture(1)
    try stage.show(picture)
    try Plug.set(name, false)
    defer { try? Plug.set(name, true) }
    try stage.wait { stage.recorder.changes == 1 }
    #expect(stage.sink.outputs.map(\.name) == [name] && stage.sink.outputs[0].modes.isEmpty)
    let error = #expect(throws: SinkError.self) { try stage.prepare(picture) }
    #expect(error?.refusal == .noOutput && error?.description.contains("has no screen now") == true)
    try Plug.set(name, true)
    try stage.wait { stage.recorder.changes == 2 }
    #expect(stage.sink.outputs == before)
    // What was shown is shown again, without being asked.
    try stage.settle()
    #expect(try Witness().shownInode() == picture.dmabuf.inode)
    try stage.show(picture)
    #expect(try Screenshot().wrongRows(1) == 0)
    #expect(stage.recorder.failed.isEmpty)
  }

  /// A connector that was named is used as soon as it has a screen, in the size that was asked for.
  @Test("a named connector is used as soon as it has a screen") func screenThatComesLater() throws {
    let name = try #require(try KMSCard(Stage.path).connectors.first?.name)
    try Plug.set(name, false)
    defer { try? Plug.set(name, true) }
    #expect(throws: KMSError.nothingConnected(card: "/dev/dri/card0")) { _ = try Stage() }
    let stage = try Stage(connectors: [name])
    #expect(stage.sink.outputs.map(\.name) == [name] && stage.sink.outputs[0].modes.isEmpty)
    #expect(throws: SinkError.self) {
      try stage.sink.allocate(width: 800, height: 600, format: .xrgb8888, on: ScanoutID(0))
    }
    try stage.sink.prefer(width: 800, height: 600, on: ScanoutID(0))
    try Plug.set(name, true)
    try stage.wait { stage.recorder.changes == 1 }
    #expect(stage.sink.outputs[0].modes.first?.hdisplay == 800)
    let picture = try stage.picture(4)
    try stage.show(picture)
    let screen = try Screenshot()
    #expect(screen.width == 800 && screen.wrongRows(4) == 0)
  }
}
