package import Linux

extension GPUDevice {
  /// How long something waits at most.
  package struct Patience {
    /// A flush's fence for its flip.
    package var fence = TimeSpan.milliseconds(100)
    /// Pages for a sink that shows them.
    var pageReturn = TimeSpan.seconds(1)
    /// A command for the front end.
    var errand = TimeSpan.seconds(5)
    /// The guest's question what there is to show frames on for whoever shows them.
    var inquiry = TimeSpan.seconds(1)
    /// Other sources of the loop for a queue with many commands, or with much to copy. In one turn of the loop each queue
    /// can have this time twice, and what was begun earlier once.
    package var turn = TimeSpan.milliseconds(4)
  }
}
