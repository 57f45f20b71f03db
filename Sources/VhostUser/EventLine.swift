internal import Linux

/// A descriptor by which the front end is called.
final class EventLine {
  let event: EventFD
  init(_ event: consuming EventFD) { self.event = event }
}
