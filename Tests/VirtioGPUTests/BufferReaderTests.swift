import Fixtures
import Linux
import Scanout
import SystemPackage
import TestSupport
import Testing

@testable import Buffers
@testable import Udmabuf
@testable import VirtioGPU

/// Devices of others that read the guest's pages, and what waits for them.
@Suite(.serialized) struct BufferReaderTests {
  /// What stands for the dma-buf, and for the device that reads it.
  enum Kind: CaseIterable {
    /// An eventfd, which nobody can write to while it is full.
    case eventFD
    /// The real ones.
    case vgem
  }

  static let kinds = TestHost.isActive ? Kind.allCases : [.eventFD]
  typealias Way = ReleaseTests.Way

  /// A resource 1 on screen 0, and a device that may read its pages.
  private final class Stage {
    let rig: Rig
    let dmabuf: DMABuf
    private let vgem: Vgem?
    private var fence: UInt32 = 0

    init(_ kind: Kind, _ patience: GPUDevice.Patience = .endless) throws {
      rig = try Rig(
        kind == .vgem ? .real : .missing(.noSuchFileOrDirectory), backing: .auto, patience: patience)
      try rig.lend(1)
      let buffer = try #require(rig.device.resources[ResourceID(1)]?.buffer)
      if kind == .eventFD {
        buffer.backing = .lent(try DMABuf(adopting: EventFD().fd.duplicate(), size: buffer.size))
        rig.lender.account.admitLent(buffer.size)
      }
      dmabuf = try #require(buffer.dmabuf)
      vgem = kind == .vgem ? try Vgem() : nil
      try rig.ok(Request.setScanout(0, 1), Request.flush(1))
      rig.screen.flip()
    }

    var all: Statistics { rig.statistics }

    /// The dma-buf is given to somebody.
    func share() { dmabuf.withSharedDescriptor { _ in } }

    /// The device begins to read.
    func read() throws {
      if let vgem {
        fence = try dmabuf.withDescriptor { try vgem.read($0) }
      } else {
        try dmabuf.withDescriptor { unsafe try $0.write(UInt64(0xffff_ffff_ffff_fffe).bytes.span.bytes) }
      }
    }

    /// It has read.
    func finish() throws {
      if let vgem { try vgem.finish(fence) } else { try dmabuf.withDescriptor { _ = try $0.read(upTo: 8) } }
    }
  }

  @Test(
    "a guest gets its pages back when the device that reads them has finished", arguments: Way.allCases, kinds
  ) func areWaitedFor(
    _ way: Way, _ kind: Kind
  ) throws {
    let stage = try Stage(kind)
    let rig = stage.rig
    stage.share()
    try stage.read()
    let head = rig.post(way.request(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.answer() == nil && stage.all.liveDMABufs == 1)
    #expect(rig.screen.shown()?.dmabuf !== stage.dmabuf, "nobody shows it any more")
    #expect(stage.all.waitedForFence == 1)
    try stage.finish()
    var answer: Answer?
    try rig.turn {
      answer = rig.answer()
      return answer != nil
    }
    #expect(answer?.head == head && answer?.type == ResponseType.ok)
    #expect(stage.all.liveDMABufs == 0 && stage.all.releasedLate == 0 && rig.errors.isEmpty)
    try rig.expectBalance()
  }

  /// What a consumer tells its device while it holds a buffer goes on when it has let go of it.
  @Test("a read that begins while a consumer holds the buffer delays the answer too", arguments: kinds)
  func beginWhileItIsHeld(_ kind: Kind) throws {
    let stage = try Stage(kind)
    let rig = stage.rig
    stage.share()
    let frame = try #require(rig.screen.shown())
    frame.acquire()
    rig.post(Request.unref(1))
    rig.screen.flipAll()
    try rig.settle()
    #expect(rig.answer() == nil && stage.all.waitedForFence == 0)
    try stage.read()
    frame.release()
    try rig.settle()
    #expect(rig.answer() == nil && stage.all.waitedForFence == 1)
    try stage.finish()
    try rig.turn { stage.all.liveDMABufs == 0 }
    #expect(rig.answer()?.type == ResponseType.ok && stage.all.releasedLate == 0)
  }

  @Test(
    "after the deadline the pages go back although a device still reads them", arguments: Way.allCases, kinds)
  func areNotWaitedForForEver(
    _ way: Way, _ kind: Kind
  ) throws {
    let stage = try Stage(kind, GPUDevice.Patience())
    let rig = stage.rig
    stage.share()
    try stage.read()
    rig.post(way.request(1))
    rig.screen.flipAll()
    var answer: Answer?
    try rig.turn {
      answer = rig.answer()
      return answer != nil
    }
    #expect(answer?.type == ResponseType.ok && stage.all.liveDMABufs == 0)
    #expect(stage.all.releasedLate == 1 && rig.errors == ["releasedLate": 1])
    #expect(rig.log.warnings.count == 1 && rig.log.warnings[0].contains("a device still reads"))
    try stage.finish()
    try rig.expectBalance()
  }

  @Test("a device that has finished reading delays nothing", arguments: kinds) func whoHasReadIsNotWaitedFor(
    _ kind: Kind
  ) throws {
    let stage = try Stage(kind)
    stage.share()
    try stage.read()
    try stage.finish()
    stage.rig.post(Request.unref(1))
    stage.rig.screen.flipAll()
    try stage.rig.settle()
    #expect(stage.rig.answer()?.type == ResponseType.ok && stage.all.waitedForFence == 0)
  }

  /// Nobody is asked whether somebody reads what nobody was given.
  @Test("a buffer that was given to nobody is not asked whether a device reads it")
  func whatWasGivenToNobodyIsFree() throws {
    let stage = try Stage(.eventFD)
    try stage.read()
    stage.rig.post(Request.unref(1))
    stage.rig.screen.flipAll()
    try stage.rig.settle()
    #expect(stage.rig.answer()?.type == ResponseType.ok && stage.all.waitedForFence == 0)
  }

  @Test("a buffer that was asked for by its UUID counts as shared") func whoAskedByNameWasGivenIt() throws {
    let stage = try Stage(.eventFD)
    #expect(try stage.rig.ask(Request.assignUUID(1)).type == ResponseType.resourceUUID)
    let uuid = try #require(stage.rig.device.resources[ResourceID(1)]?.uuid)
    #expect(!stage.dmabuf.isShared)
    let isFound = stage.rig.device.sharedObject(uuid) != nil
    #expect(isFound && stage.dmabuf.isShared)
  }

  // MARK: Stop and reset

  /// A driver frees what it never asked back when it resets the device, which is a stop here.
  @Test("a stop waits until the device that reads a buffer has finished", arguments: [false, true], kinds)
  func aStopWaits(
    _ isAskedBack: Bool, _ kind: Kind
  ) throws {
    let stage = try Stage(kind)
    let rig = stage.rig
    stage.share()
    try stage.read()
    if isAskedBack {
      rig.post(Request.unref(1))
      rig.screen.flipAll()
      try rig.settle()
    }
    var finished = false
    rig.device.stop(0) { finished = true }
    try rig.settle()
    #expect(!finished && stage.all.waitedForFence == 1)
    try stage.finish()
    try rig.turn { finished }
    #expect(stage.all.liveDMABufs == (isAskedBack ? 0 : 1) && stage.all.releasedLate == 0)
    #expect(rig.answer()?.type == (isAskedBack ? ResponseType.ok : nil))
  }

  @Test("a stop ends after its deadline although a device still reads", arguments: kinds) func aStopIsBounded(
    _ kind: Kind
  ) throws {
    let stage = try Stage(kind, GPUDevice.Patience())
    stage.share()
    try stage.read()
    var finished = false
    stage.rig.device.stop(0) { finished = true }
    try stage.rig.turn { finished }
    #expect(stage.all.liveDMABufs == 1, "a stop may be followed by a resume")
    try stage.finish()
  }

  @Test("a reset frees a buffer although a device still reads it", arguments: kinds) func aResetDoesNotWait(
    _ kind: Kind
  ) throws {
    let stage = try Stage(kind)
    stage.share()
    try stage.read()
    stage.rig.device.reset()
    stage.rig.screen.flipAll()
    try stage.rig.settle()
    #expect(stage.all.liveDMABufs == 0 && stage.all.waitedForFence == 0 && stage.all.releasedLate == 0)
    try stage.finish()
  }
}
