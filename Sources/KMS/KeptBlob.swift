internal import SystemPackage

/// A property blob in the kernel that is made anew only when its content changes.
struct KeptBlob<Content: Equatable> {
  private var last: (content: Content, id: UInt32)?

  /// - Parameter raw: `content` as the kernel reads it.
  /// - Returns: the id of the blob, which lives until the next call for another content, or until `free`.
  mutating func id<Raw: BitwiseCopyable>(
    of content: Content, as raw: @autoclosure () -> Raw, in file: DRMFile
  ) throws(Errno) -> UInt32 {
    if let last, last.content == content { return last.id }
    free(in: file)
    let id = try file.createBlob(raw())
    last = (content, id)
    return id
  }

  /// Frees the blob. A state that refers to it keeps the content.
  mutating func free(in file: DRMFile) {
    if let last { file.destroyBlob(last.id) }
    last = nil
  }
}
