internal import Guest
internal import Scanout
internal import Virtio

/// Reads commands from chains. It keeps one buffer for the copies, so that a command allocates nothing.
struct CommandDecoder {
  private var bytes: [UInt8] = []

  /// The header with which every chain begins.
  mutating func header(_ reader: inout ChainReader) throws(VirtQueueError) -> ControlHeader {
    try copy(ControlHeader.size, &reader)
    return ControlHeader(
      type: u32(0), flags: u32(4), fenceID: u64(8), contextID: u32(16), ringIndex: u32(20))
  }

  /// The command behind a header. Only this function knows the layout of commands.
  /// - Throws: if the chain ends too early.
  mutating func command(
    _ header: ControlHeader, _ reader: inout ChainReader
  ) throws(VirtQueueError) -> Command {
    switch header.type {
    case CommandType.getDisplayInfo:
      return .getDisplayInfo
    case CommandType.getEDID:
      try copy(8, &reader)
      return .getEDID(ScanoutID(u32(0)))
    case CommandType.resourceCreate2D:
      try copy(16, &reader)
      return .createResource(ResourceID(u32(0)), format: u32(4), width: u32(8), height: u32(12))
    case CommandType.resourceUnref:
      try copy(8, &reader)
      return .unrefResource(ResourceID(u32(0)))
    case CommandType.setScanout:
      try copy(24, &reader)
      return .setScanout(ScanoutID(u32(16)), ResourceID(u32(20)), rectangle())
    case CommandType.resourceFlush:
      try copy(24, &reader)
      return .flush(ResourceID(u32(16)), rectangle())
    case CommandType.transferToHost2D:
      try copy(32, &reader)
      return .transferToHost(ResourceID(u32(24)), rectangle(), offset: u64(16))
    case CommandType.resourceAttachBacking:
      try copy(8, &reader)
      return .attachBacking(ResourceID(u32(0)), entries: u32(4))
    case CommandType.resourceDetachBacking:
      try copy(8, &reader)
      return .detachBacking(ResourceID(u32(0)))
    case CommandType.resourceAssignUUID:
      try copy(8, &reader)
      return .assignUUID(ResourceID(u32(0)))
    case CommandType.resourceCreateBlob:
      try copy(32, &reader)
      return .createBlob(
        ResourceID(u32(0)), BlobRequest(memory: u32(4), flags: u32(8), blobID: u64(16), size: u64(24)),
        entries: u32(12))
    case CommandType.setScanoutBlob:
      try copy(72, &reader)
      return .setScanoutBlob(
        ScanoutID(u32(16)), ResourceID(u32(20)), rectangle(),
        BlobLayout(
          width: u32(24), height: u32(28), format: u32(32), strides: (0..<4).map { u32(40 + 4 * $0) },
          offsets: (0..<4).map { u32(56 + 4 * $0) }))
    case CommandType.resourceMapBlob:
      try copy(16, &reader)
      return .mapBlob(ResourceID(u32(0)), offset: u64(8))
    case CommandType.resourceUnmapBlob:
      try copy(8, &reader)
      return .unmapBlob(ResourceID(u32(0)))
    case CommandType.contextCreate:
      // Its name and its purpose matter only to 3D.
      try copy(72, &reader)
      return .createContext
    case CommandType.contextDestroy:
      return .destroyContext
    case CommandType.contextAttachResource:
      try copy(8, &reader)
      return .attachToContext(ResourceID(u32(0)))
    case CommandType.contextDetachResource:
      try copy(8, &reader)
      return .detachFromContext(ResourceID(u32(0)))
    case CommandType.submit3D:
      try copy(8, &reader)
      return .submit(size: u32(0))
    case CommandType.updateCursor, CommandType.moveCursor:
      // struct virtio_gpu_update_cursor: position (scanout, x, y, padding), resource, hot spot, padding.
      try copy(32, &reader)
      let scanout = ScanoutID(u32(0))
      // The spec's numbers are unsigned; a cursor that leaves on the left has a very large one.
      let position = CursorPosition(x: Int32(bitPattern: u32(4)), y: Int32(bitPattern: u32(8)))
      return header.type == CommandType.moveCursor
        ? .moveCursor(scanout, position, ResourceID(u32(16)))
        : .updateCursor(scanout, position, ResourceID(u32(16)), hotX: u32(20), hotY: u32(24))
    default:
      return .unknown(header.type)
    }
  }

  /// The page list behind RESOURCE_ATTACH_BACKING (`struct virtio_gpu_mem_entry`), in one descriptor or in many. `count`
  /// was admitted before, so it bounds the copy.
  mutating func pageList(
    count: UInt32, _ reader: inout ChainReader
  ) throws(VirtQueueError) -> [GuestRange] {
    try copy(Int(count) * 16, &reader)
    return (0..<Int(count)).map { entry in
      GuestRange(address: GuestAddress(u64(entry * 16)), length: UInt64(u32(entry * 16 + 8)))
    }
  }

  private mutating func copy(_ count: Int, _ reader: inout ChainReader) throws(VirtQueueError) {
    bytes.removeAll(keepingCapacity: true)
    try reader.read(count, into: &bytes)
  }

  private func u32(_ offset: Int) -> UInt32 {
    UInt32(bytes[offset]) | UInt32(bytes[offset + 1]) << 8 | UInt32(bytes[offset + 2]) << 16
      | UInt32(bytes[offset + 3]) << 24
  }

  private func u64(_ offset: Int) -> UInt64 { UInt64(u32(offset)) | UInt64(u32(offset + 4)) << 32 }

  private func rectangle() -> Rectangle {
    Rectangle(x: u32(0), y: u32(4), width: u32(8), height: u32(12))
  }
}
