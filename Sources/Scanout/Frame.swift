/// One of the outputs of the guest's device, counted from 0 (virtio 1.3, 5.7.6.8: scanout).
public struct ScanoutID: Hashable, Sendable, CustomStringConvertible {
  public let rawValue: UInt32
  public init(_ rawValue: UInt32) { self.rawValue = rawValue }
  public var description: String { String(rawValue) }
}

/// A picture: memory and how the image lies in it, with a count of those who use its pages right now.
///
/// A sink that shows a frame, or is about to, holds a use. The pages may go back to the guest when there is
/// no use left.
public final class Frame {
  /// Differs among all frames of this process.
  public let id: UInt64
  public let memory: FrameMemory
  public let layout: FrameLayout
  /// How many hold it now.
  public private(set) var uses = 0
  /// Runs each time that the last use ends.
  public var whenIdle: (() -> Void)?

  public init(id: UInt64, memory: FrameMemory, layout: FrameLayout) {
    (self.id, self.memory, self.layout) = (id, memory, layout)
  }

  public func acquire() { uses += 1 }

  public func release() {
    precondition(uses > 0, "a use ends once")
    uses -= 1
    if uses == 0 { whenIdle?() }
  }
}
