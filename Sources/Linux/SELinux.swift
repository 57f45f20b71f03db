internal import CLinux
internal import Glibc
package import SystemPackage

/// The labels of a system's files, and the accesses that its policy allows.
package protocol SecurityPolicy {
  /// Whether the kernel refuses forbidden accesses, and does not only log them.
  var isEnforcing: Bool { get }
  /// The labels of virtual machines' processes: first under KVM, then emulated.
  var domainLabels: [String] { get }
  /// A file's label; nil if there is no such file, or it has no label.
  func label(of path: FilePath) -> String?
  /// The label that the policy has for a path: what `restorecon` would give to the file.
  func expectedLabel(of path: FilePath) -> String?
  /// Whether a process with one label may access a file with another; nil if the policy does not know the access.
  func allows(_ subject: String, to permission: String, on object: String, ofKind kind: String) -> Bool?
}

/// SELinux, as libselinux knows it. The library is opened by name; systems without it need none.
package struct SELinux: SecurityPolicy {
  private let contexts: FilePath?

  /// Nil without libselinux, or if SELinux is off.
  package init?() {
    guard cl_selinux_load() == 1, cl_selinux_enabled() == 1 else { return nil }
    contexts = nil
  }

  /// Takes the policy's paths from a file, even if SELinux is off; nil without the library.
  package init?(contexts: FilePath) {
    guard cl_selinux_load() == 1 else { return nil }
    self.contexts = contexts
  }

  /// The corresponding C function is `security_getenforce`.
  package var isEnforcing: Bool { cl_selinux_enforcing() == 1 }

  /// The corresponding C function is `selinux_virtual_domain_context_path`.
  package var domainLabels: [String] {
    guard let path = unsafe cl_selinux_domain_contexts() else { return [] }
    let text = (try? readText(FilePath(unsafe String(cString: path)))) ?? ""
    return text.split(whereSeparator: \.isWhitespace).map(String.init)
  }

  /// The corresponding C function is `getfilecon`.
  package func label(of path: FilePath) -> String? {
    unsafe take(path.withPlatformString { unsafe cl_selinux_label($0) })
  }

  /// The corresponding C function is `selabel_lookup`.
  package func expectedLabel(of path: FilePath) -> String? {
    var status = stat()
    guard unsafe path.withPlatformString({ unsafe lstat($0, &status) }) == 0 else { return nil }
    return unsafe path.withPlatformString { name in
      guard let contexts else { return unsafe take(cl_selinux_expected_label(name, status.st_mode, nil)) }
      return unsafe contexts.withPlatformString {
        unsafe take(cl_selinux_expected_label(name, status.st_mode, $0))
      }
    }
  }

  /// The corresponding C function is `security_compute_av`.
  package func allows(
    _ subject: String, to permission: String, on object: String, ofKind kind: String
  ) -> Bool? {
    switch unsafe cl_selinux_allows(subject, object, kind, permission) {
    case 1: true
    case 0: false
    default: nil
    }
  }

  private func take(_ label: UnsafeMutablePointer<CChar>?) -> String? {
    guard let label = unsafe label else { return nil }
    defer { unsafe cl_selinux_free(label) }
    return unsafe String(cString: label)
  }
}
