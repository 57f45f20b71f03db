internal import CLibvirt
internal import Glibc

/// A connection to libvirtd.
@safe package final class LibvirtConnection {
  /// The connection's URI.
  package let uri: String
  private let connection: OpaquePointer

  /// Opens libvirt's library and connects.
  package init(_ uri: String) throws(LibvirtError) {
    // qemu:///session, qemu+unix:///session?socket=...
    if uri.prefix(while: { $0 != "?" }).hasSuffix("/session") { throw .session(uri) }
    if let error = unsafe clv_load() { throw .noLibrary(unsafe String(cString: error)) }
    guard let connection = unsafe clv_open(uri) else { throw .connection(uri, lastError()) }
    self.uri = uri
    unsafe self.connection = connection
  }

  deinit { unsafe clv_close(connection) }

  /// The domain of this name.
  package func domain(_ name: String) throws(LibvirtError) -> LibvirtDomain {
    guard let domain = unsafe clv_lookup(connection, name) else { throw .domain(name, lastError()) }
    return unsafe LibvirtDomain(domain, name, self)
  }

  /// Makes a definition the persistent one of its domain. A running guest goes on unchanged.
  package func define(_ domain: DomainXML) throws(LibvirtError) {
    guard let defined = unsafe clv_define(connection, domain.text, CLV_DEFINE_VALIDATE) else {
      throw .domain(domain.name ?? "", lastError())
    }
    unsafe clv_free_domain(defined)
  }
}

/// A domain that libvirt knows.
@safe package final class LibvirtDomain {
  package let name: String
  private let domain: OpaquePointer
  private let connection: LibvirtConnection

  fileprivate init(_ domain: OpaquePointer, _ name: String, _ connection: LibvirtConnection) {
    unsafe self.domain = domain
    (self.name, self.connection) = (name, connection)
  }

  deinit { unsafe clv_free_domain(domain) }

  /// Whether it runs.
  package var isActive: Bool { unsafe clv_is_active(domain) == 1 }
  /// Whether its definition stays when it ends.
  package var isPersistent: Bool { unsafe clv_is_persistent(domain) == 1 }

  /// The definition of the running guest.
  package func running() throws(LibvirtError) -> DomainXML {
    guard let text = unsafe clv_xml(domain, 0) else { throw .domain(name, lastError()) }
    defer { unsafe free(text) }
    return try DomainXML(unsafe String(cString: text))
  }

  /// Asks QEMU through libvirt. libvirt marks the domain as tainted, because it no longer knows all changes of it.
  /// - Parameter human: a command of the human monitor, not JSON.
  func ask(_ command: String, human: Bool) throws(LibvirtError) -> String {
    var answer: UnsafeMutablePointer<CChar>?
    let result = unsafe clv_monitor(domain, command, &answer, human ? CLV_MONITOR_HMP : 0)
    guard result == 0, let text = unsafe answer else { throw .domain(name, lastError()) }
    defer { unsafe free(text) }
    return unsafe String(cString: text)
  }

  /// The persistent definition, or that of a running transient domain. It has passwords if the connection may read them.
  /// - Parameter isToBeDefined: whether it will be defined again, and must not lose the passwords.
  package func definition(isToBeDefined: Bool = false) throws(LibvirtError) -> DomainXML {
    try DomainXML(isToBeDefined: isToBeDefined) { flags throws(LibvirtError) in
      guard let text = unsafe clv_xml(domain, flags) else { throw .domain(name, lastError()) }
      defer { unsafe free(text) }
      return unsafe String(cString: text)
    }
  }
}

extension DomainXML {
  /// - Parameter read: gives libvirt's XML of a domain for these flags.
  init(
    isToBeDefined: Bool, _ read: (UInt32) throws(LibvirtError) -> String
  ) throws(LibvirtError) {
    let text: String
    do throws(LibvirtError) { text = try read(CLV_XML_INACTIVE | CLV_XML_SECURE) } catch let refusal {
      // For a read-only connection libvirt refuses the whole XML if passwords are asked for.
      text = try read(CLV_XML_INACTIVE)
      if isToBeDefined { throw .withoutSecrets("\(refusal)") }
    }
    try self.init(text)
  }
}

private func lastError() -> String { unsafe String(cString: clv_error()) }
