internal import Scanout

/// A command (virtio 1.3, 5.7.6.8 to 5.7.6.10), decoded. Nothing in it is checked against the
/// device's state yet.
enum Command: Equatable {
  case getDisplayInfo
  case getEDID(ScanoutID)
  case createResource(ResourceID, format: UInt32, width: UInt32, height: UInt32)
  case unrefResource(ResourceID)
  case setScanout(ScanoutID, ResourceID, Rectangle)
  case flush(ResourceID, Rectangle)
  case transferToHost(ResourceID, Rectangle, offset: UInt64)
  /// The page list follows in the chain, and is read after its length was admitted.
  case attachBacking(ResourceID, entries: UInt32)
  case detachBacking(ResourceID)
  case assignUUID(ResourceID)
  /// The page list follows in the chain, as with `attachBacking`.
  case createBlob(ResourceID, BlobRequest, entries: UInt32)
  case setScanoutBlob(ScanoutID, ResourceID, Rectangle, BlobLayout)
  case mapBlob(ResourceID, offset: UInt64)
  case unmapBlob(ResourceID)
  /// The header has the context's number, also in the next three commands.
  case createContext
  case destroyContext
  case attachToContext(ResourceID)
  case detachFromContext(ResourceID)
  case submit(size: UInt32)
  case updateCursor(ScanoutID, CursorPosition, ResourceID, hotX: UInt32, hotY: UInt32)
  case moveCursor(ScanoutID, CursorPosition, ResourceID)
  /// A command that this device does not have, or an unknown number.
  case unknown(UInt32)

  /// The command's name in the spec, for people.
  var name: String {
    switch self {
    case .getDisplayInfo: "GET_DISPLAY_INFO"
    case .getEDID: "GET_EDID"
    case .createResource: "RESOURCE_CREATE_2D"
    case .unrefResource: "RESOURCE_UNREF"
    case .setScanout: "SET_SCANOUT"
    case .flush: "RESOURCE_FLUSH"
    case .transferToHost: "TRANSFER_TO_HOST_2D"
    case .attachBacking: "RESOURCE_ATTACH_BACKING"
    case .detachBacking: "RESOURCE_DETACH_BACKING"
    case .assignUUID: "RESOURCE_ASSIGN_UUID"
    case .createBlob: "RESOURCE_CREATE_BLOB"
    case .setScanoutBlob: "SET_SCANOUT_BLOB"
    case .mapBlob: "RESOURCE_MAP_BLOB"
    case .unmapBlob: "RESOURCE_UNMAP_BLOB"
    case .createContext: "CTX_CREATE"
    case .destroyContext: "CTX_DESTROY"
    case .attachToContext: "CTX_ATTACH_RESOURCE"
    case .detachFromContext: "CTX_DETACH_RESOURCE"
    case .submit: "SUBMIT_3D"
    case .updateCursor: "UPDATE_CURSOR"
    case .moveCursor: "MOVE_CURSOR"
    case .unknown(let type): "command 0x\(String(type, radix: 16))"
    }
  }
}

/// The fields of RESOURCE_CREATE_BLOB (`struct virtio_gpu_resource_create_blob`).
struct BlobRequest: Equatable {
  var memory, flags: UInt32
  /// The number of the host's memory; 0 for the guest's own.
  var blobID: UInt64
  /// In bytes.
  var size: UInt64
}

/// The layout of an image in a blob (`struct virtio_gpu_set_scanout_blob`), at most four planes.
struct BlobLayout: Equatable {
  var width, height, format: UInt32
  var strides, offsets: [UInt32]
}
