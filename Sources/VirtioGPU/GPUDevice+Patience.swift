package import Linux

extension GPUDevice {
  /// The longest waits.
  package struct Patience {
    /// A flush's fence waits for its flip.
    package var fence = TimeSpan.milliseconds(100)
    /// Pages wait for a sink that shows them.
    var pageReturn = TimeSpan.seconds(1)
    /// A command waits for the front end.
    var errand = TimeSpan.seconds(5)
    /// The guest's question about its screens waits for the sink.
    var inquiry = TimeSpan.seconds(1)
    /// Other sources of the loop wait for a queue with many commands, or with much to copy. In one turn each queue can use
    /// this time twice, and earlier work once.
    package var turn = TimeSpan.milliseconds(4)
  }
}
