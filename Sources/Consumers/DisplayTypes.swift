internal import Linux
public import Scanout
internal import Udmabuf
public import Varlink

// What goes over the control socket, as `io.udmabridge.Display` defines it: written by the helper, read by the tool.

/// In pixels.
public struct DisplayRectangle: Equatable, Sendable, Decodable, JSONWritable {
  public var x, y, width, height: Int

  public init(_ rectangle: Rectangle) {
    (x, y) = (Int(rectangle.x), Int(rectangle.y))
    (width, height) = (Int(rectangle.width), Int(rectangle.height))
  }

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("x", x)
      json.field("y", y)
      json.field("width", width)
      json.field("height", height)
    }
  }
}

/// A size that an output can show, and its refresh rate in thousandths of a hertz.
public struct DisplayModeSize: Equatable, Sendable, Decodable, JSONWritable {
  public var width, height, refresh: Int

  init(_ mode: DisplayMode) {
    (width, height, refresh) = (Int(mode.hdisplay), Int(mode.vdisplay), Int(mode.refresh))
  }

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("width", width)
      json.field("height", height)
      json.field("refresh", refresh)
    }
  }
}

/// A picture of a scanout, and how it lies in its buffer.
public struct DisplayFrame: Equatable, Sendable, Decodable, JSONWritable {
  public enum Kind: String, Sendable, Decodable { case lent, shadow }
  public enum Memory: String, Sendable, Decodable { case dmabuf, memfd }

  public var scanout, sequence, buffer: Int
  public var kind: Kind
  public var memory: Memory
  /// The buffer's size in bytes.
  public var size: Int
  public var width, height: Int
  public var format: String
  public var fourcc, stride, offset, modifier: Int
  public var source: DisplayRectangle

  init(_ presentation: Presentation, on scanout: ScanoutID) {
    let (frame, layout) = (presentation.frame, presentation.frame.layout)
    (self.scanout, sequence, buffer) = (Int(scanout.rawValue), Int(presentation.sequence), Int(frame.id))
    switch frame.memory {
    case .lent(let dmabuf): (kind, memory, size) = (.lent, .dmabuf, Int(clamping: dmabuf.size))
    case .shadow(let shadow):
      (kind, memory, size) = (.shadow, shadow.isDMABuf ? .dmabuf : .memfd, shadow.mapping.length)
    }
    (width, height) = (Int(layout.width), Int(layout.height))
    (format, fourcc) = (layout.format.description, Int(layout.format.rawValue))
    (stride, offset) = (Int(layout.stride), Int(layout.offset))
    modifier = Int(bitPattern: UInt(layout.modifier))
    source = DisplayRectangle(presentation.source)
  }

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("scanout", scanout)
      json.field("sequence", sequence)
      json.field("buffer", buffer)
      json.field("kind", kind.rawValue)
      json.field("memory", memory.rawValue)
      json.field("size", size)
      json.field("width", width)
      json.field("height", height)
      json.field("format", format)
      json.field("fourcc", fourcc)
      json.field("stride", stride)
      json.field("offset", offset)
      json.field("modifier", modifier)
      json.field("source", source)
    }
  }
}

/// Where a scanout's cursor is. `image` differs for each image that it had.
public struct DisplayCursor: Equatable, Sendable, Decodable, JSONWritable {
  public var scanout: Int
  public var visible: Bool
  public var x, y, hotX, hotY: Int
  public var image: Int

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("scanout", scanout)
      json.field("visible", visible)
      json.field("x", x)
      json.field("y", y)
      json.field("hotX", hotX)
      json.field("hotY", hotY)
      json.field("image", image)
    }
  }
}

/// A scanout, what it can show, and what it shows now.
public struct DisplayOutput: Equatable, Sendable, Decodable, JSONWritable {
  public var scanout: Int
  public var name: String
  public var modes: [DisplayModeSize]
  public var frame: DisplayFrame?

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("scanout", scanout)
      json.field("name", name)
      json.field("modes", modes)
      json.field("frame", frame)
    }
  }
}

// MARK: Replies

public struct DisplayOutputs: Equatable, Sendable, Decodable, JSONWritable {
  public var outputs: [DisplayOutput]

  public func write(to json: inout JSONWriter) { json.object { json in json.field("outputs", outputs) } }
}

public struct DisplayFrameReply: Equatable, Sendable, Decodable, JSONWritable {
  public var frame: DisplayFrame
  public var damage: DisplayRectangle
  public var fileDescriptor: Int

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("frame", frame)
      json.field("damage", damage)
      json.field("fileDescriptor", fileDescriptor)
    }
  }
}

public struct DisplayCursorReply: Equatable, Sendable, Decodable, JSONWritable {
  public var cursor: DisplayCursor
  public var fileDescriptor: Int?

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("cursor", cursor)
      json.field("fileDescriptor", fileDescriptor)
    }
  }
}

public struct DisplayOfferReply: Equatable, Sendable, Decodable, JSONWritable {
  /// In bytes.
  public var size: Int
  public var fileDescriptor: Int

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("size", size)
      json.field("fileDescriptor", fileDescriptor)
    }
  }
}

public struct DisplayEvent: Equatable, Sendable, Decodable, JSONWritable {
  public enum Kind: String, Sendable, Decodable { case outputs, frame, off, cursor, end }

  public var event: Kind
  public var outputs: [DisplayOutput]?
  public var scanout: Int?
  public var frame: DisplayFrame?
  public var damage: DisplayRectangle?
  public var lost: Int?
  public var cursor: DisplayCursor?

  init(_ event: Kind) { self.event = event }

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("event", event.rawValue)
      if let outputs { json.field("outputs", outputs) }
      json.field("scanout", scanout)
      json.field("frame", frame)
      json.field("damage", damage)
      json.field("lost", lost)
      json.field("cursor", cursor)
    }
  }
}

/// What was offered on the control socket since the start, and what there is now.
public struct ControlStatistics: Equatable, Sendable, Decodable, JSONWritable {
  /// Frames that were offered.
  public var frames = 0
  /// Frame events that were sent, and frames that a caller of Watch was too slow to be told of.
  public var events = 0, lost = 0
  /// Buffers that are held now, and the callers of Watch.
  public var holds = 0, watchers = 0
  /// Holds that a later frame did not wait for any longer.
  public var overdue = 0
  /// Holds that were ended because the guest wanted its pages back.
  public var cutOff = 0
  /// Connections now, and those that were refused.
  public var connections = 0, refused = 0

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("frames", frames)
      json.field("events", events)
      json.field("lost", lost)
      json.field("holds", holds)
      json.field("watchers", watchers)
      json.field("overdue", overdue)
      json.field("cutOff", cutOff)
      json.field("connections", connections)
      json.field("refused", refused)
    }
  }
}

// MARK: Calls

/// What a method is asked for; nil leaves a parameter out.
public struct DisplayRequest: JSONWritable {
  public var scanout, since, buffer: Int?
  public var hold: Bool?

  public init(scanout: Int? = nil, since: Int? = nil, buffer: Int? = nil, hold: Bool? = nil) {
    (self.scanout, self.since, self.buffer, self.hold) = (scanout, since, buffer, hold)
  }

  public func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("scanout", scanout)
      json.field("since", since)
      json.field("buffer", buffer)
      json.field("hold", hold)
    }
  }
}
