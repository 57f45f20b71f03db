package import DomainOptions
internal import Linux

/// A domain's definition, from libvirt or for libvirt.
package struct DomainXML {
  /// The document that it is.
  package let document: XMLDocument

  /// Reads a definition.
  package init(_ text: [UInt8]) throws(LibvirtError) {
    do throws(XMLError) { document = try XMLDocument(text) } catch { throw .xml(error) }
    guard root.name == "domain", root.namespace == nil else { throw .noDomain(root.name) }
  }

  /// Reads a definition from a text.
  package init(_ text: String) throws(LibvirtError) { try self.init(Array(text.utf8)) }

  /// The present text.
  package var text: String { document.text }

  var root: XMLElement { document.root }

  /// Nil in a definition that has none yet.
  package var name: String? {
    let name = root.child("name")?.text ?? ""
    return name.isEmpty ? nil : name
  }

  /// Whether it has no KVM.
  package var isEmulated: Bool { root["type"] == "qemu" }

  /// The user and the group for QEMU, if the domain has its own.
  package var owner: (user: UInt32, group: UInt32)? {
    let label = root.children("seclabel").first { $0["model"] == "dac" }?.child("label")?.text
    guard let words = label?.split(separator: ":").map(String.init), words.count == 2,
      let user = HostFiles.number(words[0]) ?? Account(words[0])?.user,
      let group = HostFiles.number(words[1]) ?? groupNumber(of: words[1])
    else { return nil }
    return (user, group)
  }

  /// The screen that firmware and boot loaders use: the video marked as primary, otherwise the first.
  var video: XMLElement? {
    let all = root.child("devices")?.children("video") ?? []
    return all.first { $0.child("model")?["primary"] == "yes" } ?? all.first
  }

  /// The video that gets our back end.
  var ownVideo: XMLElement? {
    root.child("devices")?.children("video").first { video in
      video.child("driver")?["name"] == "vhostuser"
        && video.descendant("model", "acceleration")?["rendernode"].map(DomainReference.isMeant) == true
    }
  }

  /// The record of `enable`, for `disable`.
  var record: XMLElement? {
    root.child("metadata")?.children.first { $0.namespace == EnablingRecord.namespace }
  }

  /// Whether it asks for this project's back end. Other domains are left alone.
  package var isOurs: Bool { ownVideo != nil || record != nil }

  /// Whether a definition may be one of ours. This is much faster than reading it.
  package static func mayBeOurs(_ text: [UInt8]) -> Bool {
    // The text is in the string of the video, and in the record.
    let word = Array("udmabridge".utf8)
    return text.indices.dropLast(word.count - 1).contains { index in
      text[index] == word[0] && text[index..<index + word.count].elementsEqual(word)
    }
  }

  /// The string that libvirt hands to its helper; nil if it is not ours.
  var referenceText: String? { ownVideo?.descendant("model", "acceleration")?["rendernode"] }

  /// The domain's options for its helper; nil if it is not ours.
  package func reference() throws(LibvirtError) -> DomainReference? {
    guard let text = referenceText else { return nil }
    do throws(DomainError) { return try DomainReference(text) } catch { throw .reference(error) }
  }
}

/// Why a domain cannot be read or changed.
package enum LibvirtError: Error, Equatable, CustomStringConvertible {
  case xml(XMLError)
  /// Another kind of document.
  case noDomain(String)
  case noName
  case reference(DomainError)
  /// The domain could not start, even after the change.
  case refused([DomainProblem])
  /// The record for `disable` would have a secret.
  case secret(String)
  /// libvirt's client library is missing.
  case noLibrary(String)
  case connection(String, String)
  /// The libvirt of one user.
  case session(String)
  case domain(String, String)
  /// The passwords in a definition would be lost.
  case withoutSecrets(String)
  case transient(String)
  /// QEMU's answer to a command.
  case monitor(String, String)
  /// Its helper cannot be replaced.
  case noRecovery(String, String)

  package var description: String {
    switch self {
    case .xml(let error): "\(error)"
    case .noDomain(let name):
      "the XML is not a domain: its outermost element is <\(name.prefix(100))>, not <domain>"
    case .noName: "the domain has no <name>, which its helper needs"
    case .reference(let error): "the domain's <acceleration rendernode=...>: \(error)"
    case .refused(let problems):
      problems.map { "\($0)" }.joined(separator: "\n")
    case .secret(let what):
      "\(what) has a password, which the record for disable must not keep; take it out of the domain yourself (virsh edit)"
    case .noLibrary(let why):
      "libvirt's client library cannot be opened: \(why); install it (Debian: libvirt-clients)"
    case .connection(let uri, let why): "no connection to libvirt at \(uri): \(why)"
    case .session(let uri):
      "\(uri) is the libvirt of one user, who has no /run/udmabridge; only the system's libvirt is supported"
    case .domain(let name, let why): "domain \(name): \(why)"
    case .withoutSecrets(let why):
      "\(why); the definition can only be read without its passwords, and a change would lose them: run as "
        + "a user who may read them (root)"
    case .monitor(let name, let why): "domain \(name), QEMU's monitor: \(why)"
    case .noRecovery(let name, let why): "domain \(name): \(why)"
    case .transient(let name):
      "domain \(name) has no persistent definition: change the source that it is made from"
    }
  }
}
