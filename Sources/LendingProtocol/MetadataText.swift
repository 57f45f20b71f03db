internal import FoundationEssentials

/// What somebody wrote is no metadata.
package struct NoMetadata: Error, CustomStringConvertible {
  package let text: String
  package var description: String {
    "\(text) is no metadata: give JSON such as {\"values\": {\"name\": \"camera\"}}, or with \"image\" (docs/port.md)"
  }
}

extension BufferMetadata {
  /// Reads a JSON object with `image`, `values`, or both.
  package init(json text: String) throws(NoMetadata) {
    guard let metadata = try? JSONDecoder().decode(BufferMetadata.self, from: Data(text.utf8)) else {
      throw NoMetadata(text: text)
    }
    self = metadata
  }
}
