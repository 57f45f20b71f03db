import Fixtures
import Linux
import Testing
import VhostUser
import Virtio

@Suite struct EndTests {
  @Test("a front end that hangs up between messages ends the session without an error") func endsInOrder()
    throws
  {
    let setup = try Setup.running()
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.link.end == .some(nil))
    #expect(setup.link.endCount == 1)
    // The device may still hold on to what it was given.
    setup.device.vrings[0]?.notify()
    #expect(try setup.link.loop.turn(waiting: .zero) == 0)
  }

  @Test("the last message before a hangup is still executed") func endsInOrderAfterItsLastMessage() throws {
    let setup = try Setup()
    try setup.frontEnd.send(FrontEnd.setDisplaySocket, descriptors: [setup.frontEnd.socket.fd.withRaw { $0 }])
    setup.link.hangUp()
    try setup.link.settle()
    #expect(setup.link.end == .some(nil))
    #expect(setup.device.takeEvents() == [.display])
  }

  @Test("a session that is dropped stops its rings") func stopsWhenItIsDropped() throws {
    let setup = try Setup.running()
    let kicks = setup.device.kicks
    setup.link.dropSession()
    setup.frontEnd.kick(0)
    #expect(try setup.link.loop.turn(waiting: .zero) == 0)
    #expect(setup.device.kicks == kicks)
    #expect(setup.link.endCount == 0)
    #expect(throws: FrontEndError.closed) { try setup.frontEnd.askWord(FrontEnd.getFeatures) }
  }

  /// What keeps an answer from being read must not keep this side from working.
  @Test("a front end that reads no replies ends the session")
  func doesNotWaitForAFrontEndThatDoesNotRead() throws {
    let setup = try Setup()
    var asked = 0
    while setup.link.end == nil, asked < 100_000 {
      try setup.frontEnd.send(FrontEnd.getFeatures)
      try setup.link.settle()
      asked += 1
    }
    #expect(setup.error == .repliesNotRead(.getFeatures))
    #expect(asked > 10)
  }
}
