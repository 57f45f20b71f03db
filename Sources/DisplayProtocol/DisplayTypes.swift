internal import Linux
package import Scanout
internal import Udmabuf
package import Varlink

// The types of `io.udmabridge.Display`, which the service writes to the control socket and its callers read.

/// In pixels.
package struct DisplayRectangle: Equatable, Sendable, Decodable, JSONWritable {
  package var x, y, width, height: Int

  package init(_ rectangle: Rectangle) {
    (x, y) = (Int(rectangle.x), Int(rectangle.y))
    (width, height) = (Int(rectangle.width), Int(rectangle.height))
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("x", x)
      json.field("y", y)
      json.field("width", width)
      json.field("height", height)
    }
  }
}

/// A size that an output can show, and its refresh rate in thousandths of a hertz.
package struct DisplayModeSize: Equatable, Sendable, Decodable, JSONWritable {
  package var width, height, refresh: Int

  package init(_ mode: DisplayMode) {
    (width, height, refresh) = (Int(mode.hdisplay), Int(mode.vdisplay), Int(mode.refresh))
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("width", width)
      json.field("height", height)
      json.field("refresh", refresh)
    }
  }
}

/// A picture of a scanout, and its layout in its buffer.
package struct DisplayFrame: Equatable, Sendable, Decodable, JSONWritable {
  package enum Kind: String, Sendable, Decodable { case lent, shadow }
  package enum Memory: String, Sendable, Decodable { case dmabuf, memfd }

  package var scanout, sequence, buffer: Int
  package var kind: Kind
  package var memory: Memory
  /// The buffer's size in bytes.
  package var size: Int
  package var width, height: Int
  package var format: String
  package var fourcc, stride, offset, modifier: Int
  package var source: DisplayRectangle

  package init(_ presentation: Presentation, on scanout: ScanoutID) {
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

  package func write(to json: inout JSONWriter) {
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

/// The place of a scanout's cursor. `image` differs for each of its images.
package struct DisplayCursor: Equatable, Sendable, Decodable, JSONWritable {
  package var scanout: Int
  package var visible: Bool
  package var x, y, hotX, hotY: Int
  package var image: Int

  package init(scanout: Int, visible: Bool, x: Int, y: Int, hotX: Int, hotY: Int, image: Int) {
    (self.scanout, self.visible, self.image) = (scanout, visible, image)
    (self.x, self.y, self.hotX, self.hotY) = (x, y, hotX, hotY)
  }

  package func write(to json: inout JSONWriter) {
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

/// A scanout, its modes, and its present picture.
package struct DisplayOutput: Equatable, Sendable, Decodable, JSONWritable {
  package var scanout: Int
  package var name: String
  package var modes: [DisplayModeSize]
  package var frame: DisplayFrame?

  package init(scanout: Int, name: String, modes: [DisplayModeSize], frame: DisplayFrame?) {
    (self.scanout, self.name, self.modes, self.frame) = (scanout, name, modes, frame)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("scanout", scanout)
      json.field("name", name)
      json.field("modes", modes)
      json.field("frame", frame)
    }
  }
}

// MARK: Replies

package struct DisplayOutputs: Equatable, Sendable, Decodable, JSONWritable {
  package var outputs: [DisplayOutput]

  package init(outputs: [DisplayOutput]) { self.outputs = outputs }

  package func write(to json: inout JSONWriter) { json.object { json in json.field("outputs", outputs) } }
}

package struct DisplayFrameReply: Equatable, Sendable, Decodable, JSONWritable {
  package var frame: DisplayFrame
  package var damage: DisplayRectangle
  package var fileDescriptor: Int

  package init(frame: DisplayFrame, damage: DisplayRectangle, fileDescriptor: Int) {
    (self.frame, self.damage, self.fileDescriptor) = (frame, damage, fileDescriptor)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("frame", frame)
      json.field("damage", damage)
      json.field("fileDescriptor", fileDescriptor)
    }
  }
}

package struct DisplayCursorReply: Equatable, Sendable, Decodable, JSONWritable {
  package var cursor: DisplayCursor
  package var fileDescriptor: Int?

  package init(cursor: DisplayCursor, fileDescriptor: Int?) {
    (self.cursor, self.fileDescriptor) = (cursor, fileDescriptor)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("cursor", cursor)
      json.field("fileDescriptor", fileDescriptor)
    }
  }
}

package struct DisplayOfferReply: Equatable, Sendable, Decodable, JSONWritable {
  /// In bytes.
  package var size: Int
  package var fileDescriptor: Int

  package init(size: Int, fileDescriptor: Int) {
    (self.size, self.fileDescriptor) = (size, fileDescriptor)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("size", size)
      json.field("fileDescriptor", fileDescriptor)
    }
  }
}

package struct DisplayEvent: Equatable, Sendable, Decodable, JSONWritable {
  package enum Kind: String, Sendable, Decodable { case outputs, frame, off, cursor, end }

  package var event: Kind
  package var outputs: [DisplayOutput]?
  package var scanout: Int?
  package var frame: DisplayFrame?
  package var damage: DisplayRectangle?
  package var lost: Int?
  package var cursor: DisplayCursor?

  package init(_ event: Kind) { self.event = event }

  package func write(to json: inout JSONWriter) {
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

/// The counts of the control socket: since the start, or now.
package struct ControlStatistics: Equatable, Sendable, Decodable, JSONWritable {
  /// Frames that were offered.
  package var frames = 0
  /// Frame events that were sent, and frames that slow callers of Watch missed.
  package var events = 0, lost = 0
  /// Buffers that are held now, and the callers of Watch and Stream.
  package var holds = 0, watchers = 0
  /// Holds for which a later frame stopped waiting.
  package var overdue = 0
  /// Holds that were ended because the guest wanted its pages back.
  package var cutOff = 0
  /// Connections now, and those that were refused.
  package var connections = 0, refused = 0

  package init() {}

  package func write(to json: inout JSONWriter) {
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

/// The parameters of a call; nil leaves one out.
package struct DisplayRequest: JSONWritable {
  package var scanout, since, buffer: Int?
  package var hold: Bool?

  package init(scanout: Int? = nil, since: Int? = nil, buffer: Int? = nil, hold: Bool? = nil) {
    (self.scanout, self.since, self.buffer, self.hold) = (scanout, since, buffer, hold)
  }

  package func write(to json: inout JSONWriter) {
    json.object { json in
      json.field("scanout", scanout)
      json.field("since", since)
      json.field("buffer", buffer)
      json.field("hold", hold)
    }
  }
}
