import Foundation
import Testing

/// What `KMS` calls of libdrm, and which of DRM's calls that makes.
@Suite struct LibdrmTests {
  /// By the function's name. libdrm's own sources say which.
  private static let calls = [
    "drmCloseBufferHandle": "GEM_CLOSE", "drmDropMaster": "DROP_MASTER", "drmGetCap": "GET_CAP",
    "drmGetVersion": "VERSION", "drmIsMaster": "AUTH_MAGIC", "drmModeAddFB2": "MODE_ADDFB2",
    "drmModeAddFB2WithModifiers": "MODE_ADDFB2", "drmModeAtomicCommit": "MODE_ATOMIC",
    "drmModeConnectorGetPossibleCrtcs": "MODE_GETENCODER", "drmModeCreateDumbBuffer": "MODE_CREATE_DUMB",
    "drmModeCreatePropertyBlob": "MODE_CREATEPROPBLOB", "drmModeDestroyPropertyBlob": "MODE_DESTROYPROPBLOB",
    "drmModeDirtyFB": "MODE_DIRTYFB", "drmModeGetConnector": "MODE_GETCONNECTOR",
    "drmModeGetConnectorCurrent": "MODE_GETCONNECTOR", "drmModeGetCrtc": "MODE_GETCRTC",
    "drmModeGetEncoder": "MODE_GETENCODER", "drmModeGetPlane": "MODE_GETPLANE",
    "drmModeGetPlaneResources": "MODE_GETPLANERESOURCES", "drmModeGetProperty": "MODE_GETPROPERTY",
    "drmModeGetPropertyBlob": "MODE_GETPROPBLOB", "drmModeGetResources": "MODE_GETRESOURCES",
    "drmModeMapDumbBuffer": "MODE_MAP_DUMB", "drmModeMoveCursor": "MODE_CURSOR",
    "drmModeObjectGetProperties": "MODE_OBJ_GETPROPERTIES", "drmModePageFlip": "MODE_PAGE_FLIP",
    "drmModeRmFB": "MODE_RMFB", "drmModeSetCrtc": "MODE_SETCRTC", "drmModeSetCursor": "MODE_CURSOR",
    "drmModeSetCursor2": "MODE_CURSOR2", "drmPrimeFDToHandle": "PRIME_FD_TO_HANDLE",
    "drmPrimeHandleToFD": "PRIME_HANDLE_TO_FD", "drmSetClientCap": "SET_CLIENT_CAP",
    "drmSetMaster": "SET_MASTER",
  ]
  /// Types, and functions that call nothing.
  private static let others: Set = [
    "drmModeAtomicAddProperty", "drmModeAtomicAlloc", "drmModeAtomicReqPtr", "drmModeAtomicSetCursor",
    "drmModeCrtc", "drmModeFormatModifierBlobIterNext", "drmModeFormatModifierIterator",
    "drmModeGetConnectorTypeName", "drmModeModeInfo", "drmModePropertyBlobPtr",
  ]

  @Test("KMS uses the listed functions of libdrm, whose calls are just those that are permitted")
  func used() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    let directory = root.deletingLastPathComponent().appending(path: "Sources/KMS")
    let files = try FileManager.default.contentsOfDirectory(at: directory, includingPropertiesForKeys: nil)
    var words: Set<String> = []
    for file in files {
      let text = try String(contentsOf: file, encoding: .utf8)
      for word in text.matches(of: /\bdrm[A-Z][A-Za-z0-9]*/) { words.insert(String(word.output)) }
    }
    let named = words.subtracting(Self.others).filter {
      !$0.hasPrefix("drmModeFree") && !["drmFreeVersion", "drmModeAtomicFree"].contains($0)
    }
    #expect(named == Set(Self.calls.keys))
    #expect(Set(Self.calls.values) == Set(PermittedCall.drm.map(\.name)))
  }
}
