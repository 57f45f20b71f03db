import Fixtures
import Linux
import SystemPackage

/// QEMU's side of a back end's display socket (`interop/vhost-user-gpu`), with nothing behind it: what wants
/// an answer is answered, pixels are read and forgotten, and a dma-buf closes as soon as it has come.
final class Display {
  /// `enum VhostUserGpuRequest`, as far as a request is told apart here.
  private static let getProtocolFeatures: UInt32 = 1
  private static let getDisplayInfo: UInt32 = 3
  private static let update: UInt32 = 8
  private static let dmabufUpdate: UInt32 = 10
  private static let getEDID: UInt32 = 11
  private static let isReply: UInt32 = 4

  /// How many frames were announced, with their pixels or in a dma-buf.
  private(set) var frames = 0
  /// What came through the socket.
  private(set) var bytesReceived = 0

  /// Of 16 screens, the first one is enabled: a `virtio_gpu_resp_display_info`.
  private static let screens: [UInt8] =
    ([0x1101, 0, 0, 0, 0, 0, 0, 0, 1024, 768, 1, 0] as [UInt32]).flatMap(\.bytes)
    + [UInt8](repeating: 0, count: 15 * 24)

  private let loop: EventLoop
  private let socket: UnixSocket
  /// The other end, for the back end.
  private let far: FD
  private var token: EventLoop.Token?
  private var header: [UInt8] = []
  private var payloadLeft = 0
  private var buffer: [UInt8] = []
  private var failure: (any Error)?

  init(_ loop: EventLoop) throws {
    self.loop = loop
    var near: UnixSocket?
    var far: FD?
    try UnixSocket.pair { first, second in
      near = consume first
      far = try second.fd.duplicate()
    }
    socket = near.take()!
    self.far = far.take()!
    token = try loop.add(socket.fd) { [unowned self] _ in serve() }
  }

  deinit { if let token { loop.remove(token, socket.fd) } }

  var farNumber: CInt { far.withRaw { $0 } }

  /// Throws what went wrong since the last look.
  func check() throws { if let failure { throw failure } }

  private func serve() {
    do {
      var descriptors = ReceivedDescriptors()
      buffer.removeAll(keepingCapacity: true)
      let count = try socket.receive(into: &buffer, upTo: 1 << 18, descriptors: &descriptors)
      bytesReceived += count
      var next = 0
      while next < count {
        if payloadLeft == 0 {
          let length = min(12 - header.count, count - next)
          header += buffer[next..<next + length]
          next += length
          if header.count == 12 { payloadLeft = Int(header.value(at: 8) as UInt32) }
        } else {
          let length = min(payloadLeft, count - next)
          payloadLeft -= length
          next += length
        }
        if header.count == 12 && payloadLeft == 0 {
          try take(header.value(at: 0))
          header = []
        }
      }
    } catch Errno.wouldBlock {} catch { failure = failure ?? error }
  }

  private func take(_ request: UInt32) throws {
    switch request {
    // No optional feature: neither EDIDs nor modifiers.
    case Self.getProtocolFeatures: try answer(request, (0 as UInt64).bytes)
    case Self.update: frames += 1
    case Self.dmabufUpdate:
      frames += 1
      try answer(request, [])
    case Self.getDisplayInfo: try answer(request, Self.screens)
    case Self.getEDID: throw WrongResult("a display without EDIDs is asked for one")
    default: break
    }
  }

  private func answer(_ request: UInt32, _ payload: [UInt8]) throws {
    let message = [request, Self.isReply, UInt32(payload.count)].flatMap(\.bytes) + payload
    let sent = try unsafe socket.send(message.span.bytes)
    try bench.check(sent == message.count, "a short answer is sent whole")
  }
}
