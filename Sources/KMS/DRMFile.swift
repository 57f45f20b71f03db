internal import CDRM
internal import Linux
internal import Scanout
internal import SystemPackage

/// One property of a KMS object: its id, which differs from driver to driver, and its value.
struct DRMProperty {
  let id: UInt32
  let value: UInt64
}

/// An open card and the calls of libdrm. Their results are copied into Swift values and freed.
@safe final class DRMFile {
  /// Nil after `close`.
  private var fd: FD?

  init(_ fd: consuming FD) { self.fd = consume fd }

  /// Closes the card and so ends its imports, even if the card takes no commands any more. Afterwards each call fails
  /// as if the card were gone.
  func close() { fd = nil }

  /// Lends the descriptor.
  /// - Throws: `operationNotSupportedByDevice` after `close`. The kernel gives the same error for a card that is
  ///   gone.
  func withFD<Result>(_ body: (borrowing FD) throws(Errno) -> Result) throws(Errno) -> Result {
    switch fd {
    case .some(let fd): return try body(fd)
    case .none: throw .operationNotSupportedByDevice
    }
  }

  /// Runs one call of libdrm, which reports an error as -1 with `errno`, or as the negated `errno` itself.
  @discardableResult
  func call(_ body: (CInt) -> CInt) throws(Errno) -> CInt {
    let result = try withFD { fd throws(Errno) in
      try fd.withRaw { raw throws(Errno) in try retrying { body(raw) } }
    }
    if result < 0 { throw Errno(rawValue: -result) }
    return result
  }

  /// Runs one call of libdrm that allocates its result, hands the result to `read`, and frees it.
  private func object<C, Value>(
    _ get: (CInt) -> UnsafeMutablePointer<C>?, _ free: (UnsafeMutablePointer<C>?) -> Void,
    _ read: (C) -> Value
  ) throws(Errno) -> Value {
    var object: UnsafeMutablePointer<C>?
    try call {
      unsafe object = unsafe get($0)
      return unsafe object == nil ? -1 : 0
    }
    defer { unsafe free(object) }
    return unsafe read(object!.pointee)
  }

  // MARK: The card

  /// The name of the driver, such as `i915`. The corresponding C function is `drmGetVersion`.
  func driver() throws(Errno) -> String {
    unsafe try object(drmGetVersion, drmFreeVersion) { version in
      unsafe String(
        decoding: UnsafeRawBufferPointer(start: version.name, count: Int(version.name_len)), as: UTF8.self)
    }
  }

  /// The value of a capability, or 0 if the driver does not know it. The corresponding C function is `drmGetCap`.
  func capability(_ capability: Int32) -> UInt64 {
    var value: UInt64 = 0
    _ = try? call { unsafe drmGetCap($0, UInt64(capability), &value) }
    return value
  }

  /// Declares that this client knows a feature. The corresponding C function is `drmSetClientCap`.
  func enable(client capability: Int32) throws(Errno) {
    try call { drmSetClientCap($0, UInt64(capability), 1) }
  }

  /// Whether this descriptor may set modes. The corresponding C function is `drmIsMaster`.
  var isMaster: Bool { (try? withFD { $0.withRaw { drmIsMaster($0) != 0 } }) ?? false }

  // MARK: Objects

  /// The ids of the CRTCs and the connectors. The corresponding C function is `drmModeGetResources`.
  func resources() throws(Errno) -> (crtcs: [UInt32], connectors: [UInt32]) {
    unsafe try object(drmModeGetResources, drmModeFreeResources) { resources in
      (
        crtcs: unsafe copy(resources.crtcs, resources.count_crtcs),
        connectors: unsafe copy(resources.connectors, resources.count_connectors)
      )
    }
  }

  /// Reads the state of a connector.
  ///
  /// - Parameter probing: whether the driver looks for a screen and reads its EDID, which takes some milliseconds.
  ///   Otherwise the kernel tells what it already knows.
  /// - The corresponding C functions are `drmModeGetConnector` and `drmModeGetConnectorCurrent`.
  func connector(_ id: UInt32, probing: Bool = true) throws(Errno) -> KMSConnector {
    let get = { (card: CInt) in
      unsafe probing ? drmModeGetConnector(card, id) : drmModeGetConnectorCurrent(card, id)
    }
    return unsafe try object(get, drmModeFreeConnector) { connector in
      var copied = unsafe connector
      let type = unsafe drmModeGetConnectorTypeName(connector.connector_type).map {
        unsafe String(cString: $0)
      }
      let encoder = unsafe connector.encoder_id
      return unsafe KMSConnector(
        id: id, name: "\(type ?? "Unknown")-\(connector.connector_type_id)",
        isConnected: connector.connection == DRM_MODE_CONNECTED,
        modes: copy(connector.modes, connector.count_modes).map { KMSMode($0) },
        widthMillimetres: connector.mmWidth, heightMillimetres: connector.mmHeight,
        possibleCRTCs: (try? withFD { $0.withRaw { unsafe drmModeConnectorGetPossibleCrtcs($0, &copied) } })
          ?? 0,
        currentCRTC: encoder == 0 ? 0 : (try? crtc(ofEncoder: encoder)) ?? 0)
    }
  }

  private func crtc(ofEncoder id: UInt32) throws(Errno) -> UInt32 {
    let get = { (card: CInt) in unsafe drmModeGetEncoder(card, id) }
    return try unsafe object(get, drmModeFreeEncoder) { $0.crtc_id }
  }

  /// The state of a CRTC: mode, framebuffer and place. The corresponding C function is `drmModeGetCrtc`.
  func crtc(_ id: UInt32) throws(Errno) -> drmModeCrtc {
    let get = { (card: CInt) in unsafe drmModeGetCrtc(card, id) }
    return try unsafe object(get, drmModeFreeCrtc) { $0 }
  }

  /// Ids of planes of every kind, if `DRM_CLIENT_CAP_UNIVERSAL_PLANES` is enabled.
  func planes() throws(Errno) -> [UInt32] {
    unsafe try object(drmModeGetPlaneResources, drmModeFreePlaneResources) { list in
      unsafe copy(list.planes, CInt(list.count_planes))
    }
  }

  /// The corresponding C function is `drmModeGetPlane`.
  func plane(_ id: UInt32) throws(Errno) -> KMSPlane {
    let properties = try properties(of: id, UInt32(DRM_MODE_OBJECT_PLANE))
    let modifiers = (properties["IN_FORMATS"]?.value).flatMap { try? self.modifiers(blob: UInt32($0)) }
    let get = { (card: CInt) in unsafe drmModeGetPlane(card, id) }
    return try unsafe object(get, drmModeFreePlane) { plane in
      unsafe KMSPlane(
        id: id, kind: KMSPlane.Kind(rawValue: properties["type"]?.value ?? 0) ?? .overlay,
        formats: copy(plane.formats, CInt(plane.count_formats)).map { FourCC(rawValue: $0) },
        modifiers: modifiers,
        possibleCRTCs: plane.possible_crtcs, currentCRTC: plane.crtc_id,
        properties: PlaneProperties(properties))
    }
  }

  private func modifiers(blob id: UInt32) throws(Errno) -> [FourCC: [UInt64]] {
    var blob: drmModePropertyBlobPtr?
    try call {
      unsafe blob = unsafe drmModeGetPropertyBlob($0, id)
      return unsafe blob == nil ? -1 : 0
    }
    defer { unsafe drmModeFreePropertyBlob(blob) }
    var modifiers: [FourCC: [UInt64]] = [:]
    var place = drmModeFormatModifierIterator()
    while unsafe drmModeFormatModifierBlobIterNext(blob, &place) {
      modifiers[FourCC(rawValue: place.fmt), default: []].append(place.mod)
    }
    return modifiers
  }

  /// The properties of an object by name. The corresponding C function is `drmModeObjectGetProperties`.
  func properties(of id: UInt32, _ type: UInt32) throws(Errno) -> [String: DRMProperty] {
    let get = { (card: CInt) in unsafe drmModeObjectGetProperties(card, id, type) }
    let list: [(UInt32, UInt64)] = try unsafe object(get, drmModeFreeObjectProperties) { all in
      unsafe Array(zip(copy(all.props, CInt(all.count_props)), copy(all.prop_values, CInt(all.count_props))))
    }
    var properties: [String: DRMProperty] = [:]
    for (property, value) in list {
      let get = { (card: CInt) in unsafe drmModeGetProperty(card, property) }
      let name = try unsafe object(get, drmModeFreeProperty) {
        unsafe withUnsafeBytes(of: $0.name) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      }
      properties[name] = DRMProperty(id: property, value: value)
    }
    return properties
  }

  // MARK: Blobs

  /// Gives the kernel a copy of `value`. The blob lives until `destroyBlob`, or longer if a state refers to it.
  func createBlob<Value: BitwiseCopyable>(_ value: Value) throws(Errno) -> UInt32 {
    var id: UInt32 = 0
    try call { raw in
      unsafe withUnsafeBytes(of: value) {
        unsafe drmModeCreatePropertyBlob(raw, $0.baseAddress, $0.count, &id)
      }
    }
    return id
  }

  func destroyBlob(_ id: UInt32) { _ = try? call { drmModeDestroyPropertyBlob($0, id) } }
}

private func copy<Element>(_ start: UnsafeMutablePointer<Element>?, _ count: CInt) -> [Element] {
  unsafe Array(UnsafeBufferPointer(start: start, count: start == nil ? 0 : Int(count)))
}
