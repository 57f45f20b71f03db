package import DomainOptions
internal import Linux

/// A domain's definition, as libvirt has it or as a program hands it to libvirt.
package struct DomainXML {
  /// The document that it is.
  package let document: XMLDocument

  /// Reads a definition.
  package init(_ text: [UInt8]) throws(LibvirtError) {
    do throws(XMLError) { document = try XMLDocument(text) } catch { throw .xml(error) }
    guard root.name == "domain", root.namespace == nil else { throw .noDomain(root.name) }
  }

  /// The same, of a text.
  package init(_ text: String) throws(LibvirtError) { try self.init(Array(text.utf8)) }

  /// As it is now.
  package var text: String { document.text }

  var root: XMLElement { document.root }

  /// Nil in one that has none yet.
  package var name: String? {
    let name = root.child("name")?.text ?? ""
    return name.isEmpty ? nil : name
  }

  /// It has no KVM.
  package var isEmulated: Bool { root["type"] == "qemu" }

  /// The user and the group that libvirt starts QEMU as, where the domain has its own.
  package var owner: (user: UInt32, group: UInt32)? {
    let label = root.children("seclabel").first { $0["model"] == "dac" }?.child("label")?.text
    guard let words = label?.split(separator: ":").map(String.init), words.count == 2,
      let user = HostFiles.number(words[0]) ?? Account(words[0])?.user,
      let group = HostFiles.number(words[1]) ?? groupNumber(of: words[1])
    else { return nil }
    return (user, group)
  }

  /// The screen that firmware and boot loaders use: the one that says so, else the first.
  var video: XMLElement? {
    let all = root.child("devices")?.children("video") ?? []
    return all.first { $0.child("model")?["primary"] == "yes" } ?? all.first
  }

  /// The video whose back end is to be ours.
  var ownVideo: XMLElement? {
    root.child("devices")?.children("video").first { video in
      video.child("driver")?["name"] == "vhostuser"
        && video.descendant("model", "acceleration")?["rendernode"].map(DomainReference.isMeant) == true
    }
  }

  /// What `enable` has written down, for `disable`.
  var record: XMLElement? {
    root.child("metadata")?.children.first { $0.namespace == EnablingRecord.namespace }
  }

  /// It wants this project's back end. All others are none of our business.
  package var isOurs: Bool { ownVideo != nil || record != nil }

  /// Whether a definition can be one of ours; much faster than to read it.
  package static func mayBeOurs(_ text: [UInt8]) -> Bool {
    // It is in the string of the video and in the record.
    let word = Array("udmabridge".utf8)
    return text.indices.dropLast(word.count - 1).contains { index in
      text[index] == word[0] && text[index..<index + word.count].elementsEqual(word)
    }
  }

  /// The string that libvirt hands to its helper; nil if it is not ours.
  var referenceText: String? { ownVideo?.descendant("model", "acceleration")?["rendernode"] }

  /// What the domain asks of its helper; nil if it is not ours.
  package func reference() throws(LibvirtError) -> DomainReference? {
    guard let text = referenceText else { return nil }
    do throws(DomainError) { return try DomainReference(text) } catch { throw .reference(error) }
  }
}

/// Why something about a domain cannot be done.
package enum LibvirtError: Error, Equatable, CustomStringConvertible {
  case xml(XMLError)
  /// Some other document.
  case noDomain(String)
  case noName
  case reference(DomainError)
  /// It could not start, whatever is done to the rest of it.
  case refused([DomainProblem])
  /// What would be written down for `disable` may not be read by everybody.
  case secret(String)
  /// There is nothing on this machine to talk to libvirt with.
  case noLibrary(String)
  case connection(String, String)
  /// A libvirt of one user.
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
    case .noDomain(let name): "the XML is no domain: its outermost element is <\(name.prefix(100))>"
    case .noName: "the domain has no <name>, by which its helper is found"
    case .reference(let error): "the domain's <acceleration rendernode=...>: \(error)"
    case .refused(let problems):
      problems.map { "\($0)" }.joined(separator: "\n")
    case .secret(let what):
      "\(what) has a password, which disable would need to put it back; take it out of the domain yourself (virsh edit)"
    case .noLibrary(let why):
      "libvirt's client library cannot be opened: \(why); install it (Debian: libvirt-clients)"
    case .connection(let uri, let why): "no connection to libvirt at \(uri): \(why)"
    case .session(let uri):
      "\(uri) is the libvirt of one user, who has no /run/udmabridge and is not looked after here"
    case .domain(let name, let why): "domain \(name): \(why)"
    case .withoutSecrets(let why):
      "\(why); its definition can be read without the passwords in it only, and would lose them if it were changed so: be "
        + "a user who may read them (root)"
    case .monitor(let name, let why): "domain \(name), QEMU's monitor: \(why)"
    case .noRecovery(let name, let why): "domain \(name): \(why)"
    case .transient(let name):
      "domain \(name) has no persistent definition: change what it is made from"
    }
  }
}
