/// An image in memory with its layout, and the number of present users of its pages.
///
/// A sink that shows a frame, or is about to show it, holds a use. The pages may go back to the guest when no use is left.
package final class Frame {
  /// Unique among all frames of this process.
  package let id: UInt64
  package let memory: FrameMemory
  package let layout: FrameLayout
  /// The number of uses now.
  package private(set) var uses = 0
  /// Runs each time that the last use ends.
  package var whenIdle: (() -> Void)?

  package init(id: UInt64, memory: FrameMemory, layout: FrameLayout) {
    (self.id, self.memory, self.layout) = (id, memory, layout)
  }

  package func acquire() { uses += 1 }

  package func release() {
    precondition(uses > 0, "a use ends once")
    uses -= 1
    if uses == 0 { whenIdle?() }
  }
}
