internal import DomainOptions
internal import Linux
package import SystemPackage

/// libvirtd's hook at each step of a domain's life. It never talks to libvirt, which waits for it.
package struct Hook {
  private let root: FilePath
  /// Starts a program and does not wait for it.
  private let start: ([String]) throws(Errno) -> Void
  private let tell: (DomainProblem) -> String

  /// The result for libvirtd.
  package struct Outcome: Equatable {
    /// 0, or 1 to refuse the start.
    package var status: Int32 = 0
    /// Lines for standard error, which libvirtd quotes.
    package var messages: [String] = []
  }

  /// - Parameters:
  ///   - root: the directory in which the host's files are.
  ///   - start: starts a program and does not wait for it.
  ///   - tell: makes a problem a line of text for people.
  package init(
    root: FilePath = "/",
    start: @escaping ([String]) throws(Errno) -> Void = { command throws(Errno) in
      try startDetached(command)
    },
    tell: @escaping (DomainProblem) -> String = { "\($0)" }
  ) {
    (self.root, self.tell, self.start) = (root, tell, start)
  }

  /// - Parameters:
  ///   - operation: such as `prepare`.
  ///   - definition: reads standard input; called only if needed.
  package func run(
    _ name: String, _ operation: String, definition: () throws -> [UInt8]
  ) -> Outcome {
    switch operation {
    case "prepare": return prepare(name, definition)
    case "started":
      guard hasPlace(name) else { return Outcome() }
      return Outcome(messages: present(name, "start"))
    case "stopped":
      guard hasPlace(name) else { return Outcome() }
      return Outcome(messages: present(name, "stop"))
    case "release":
      removePlaces(name)
      return Outcome()
    case "reconnect":
      // Another status would end the running domain.
      var outcome = prepare(name, definition)
      if outcome.status == 0, hasPlace(name) { outcome.messages += present(name, "start") }
      outcome.status = 0
      return outcome
    default: return Outcome()
    }
  }

  private func hasPlace(_ name: String) -> Bool {
    guard let places = try? DomainPlaces(name, root: root) else { return false }
    return (try? FileAccess(of: places.directory)) != nil
  }

  /// Refuses a domain that could not start, and makes the directory in which its helper puts the control socket.
  private func prepare(_ name: String, _ definition: () throws -> [UInt8]) -> Outcome {
    let text: [UInt8]
    do { text = try definition() } catch {
      return Outcome(messages: ["udmabridge: domain \(name): \(error)"])
    }
    guard DomainXML.mayBeOurs(text) else { return Outcome() }
    do {
      let domain = try DomainXML(text)
      guard let reference = try domain.reference() else { return Outcome() }
      var problems = domain.problems
      if reference.domain != name, !problems.contains(where: { $0.name == "parameters" }) {
        problems.append(.otherDomain(reference.domain, own: name))
      }
      if !problems.isEmpty { throw LibvirtError.refused(problems) }
      let places = try DomainPlaces(name, root: root)
      _ = try reference.allOptions(file: places.options)
      let messages = makeDirectory(places, domain) + makeDevice(places, domain) + leavePort(places, domain)
      return Outcome(messages: messages)
    } catch {
      return Outcome(status: 1, messages: ["udmabridge: domain \(name): \(line(error))"])
    }
  }

  /// Makes the domain's directory. If that fails, the domain still starts, without a control socket.
  private func makeDirectory(_ places: DomainPlaces, _ domain: DomainXML) -> [String] {
    do throws(Errno) {
      try Linux.makeDirectory(places.runtime, mode: 0o755)
      try Linux.makeDirectory(places.directory, mode: 0o755)
      try give(places.directory, to: domain)
      return []
    } catch { return ["udmabridge: \(places.directory) cannot be made: \(error)"] }
  }

  /// Makes a file of the user who runs QEMU.
  private func give(_ file: FilePath, to domain: DomainXML) throws(Errno) {
    // The definition names a user only if the domain has its own.
    let account = HostFiles(root: root).account()
    if let owner = domain.owner ?? account.map({ ($0.user, $0.group) }) {
      try setOwner(file, user: owner.user, group: owner.group)
    }
  }

  /// Makes the device file that the domain's string is the path of. libvirt allows that device in the domain's cgroup, and
  /// cannot start a domain with guarded devices if the file is missing.
  private func makeDevice(_ places: DomainPlaces, _ domain: DomainXML) -> [String] {
    guard let text = domain.referenceText else { return [] }
    let device = places.device(text)
    do throws(Errno) {
      removeFile(device)
      let target = root.appending("dev/udmabuf")
      // Without /dev/udmabuf, a device that everybody may use anyway.
      try makeLink(device, to: (try? FileAccess(of: target)) == nil ? "/dev/null" : "/dev/udmabuf")
      return []
    } catch { return ["udmabridge: \(device) cannot be made: \(error)"] }
  }

  /// Makes a socket on which nobody listens. libvirt gives the path to QEMU's user before the helper listens there, and
  /// cannot start the domain if the file is missing.
  private func leavePort(_ places: DomainPlaces, _ domain: DomainXML) -> [String] {
    guard let name = domain.name, let own = try? DomainPlaces(name).port, domain.lendingPort == own.string,
      (try? FileAccess(of: places.port)) == nil
    else { return [] }
    do throws(Errno) {
      _ = try UnixSocket.listen(places.port, mode: 0o600)
      try give(places.port, to: domain)
      return []
    } catch { return ["udmabridge: \(places.port) cannot be made: \(error)"] }
  }

  private func removePlaces(_ name: String) {
    // A domain whose name is too long has no files.
    guard let places = try? DomainPlaces(name, root: root) else { return }
    removeDirectory(places.directory)
    for entry in directoryEntries(places.runtime) {
      guard let reference = try? DomainReference("/run/udmabridge/" + entry), reference.domain == name else {
        continue
      }
      removeFile(places.runtime.appending(entry))
    }
  }

  /// Starts or stops the domain's presenter, which systemd looks after.
  private func present(_ name: String, _ verb: String) -> [String] {
    guard let places = try? DomainPlaces(name, root: root), (try? FileAccess(of: places.present)) != nil
    else { return [] }
    do throws(Errno) {
      try start([
        "systemctl", "--no-block", verb, "udmabridge-present@\(Self.unitName(places.fileName)).service",
      ])
      return []
    } catch { return ["udmabridge: systemctl cannot be started: \(error)"] }
  }

  /// A text as a part of a unit's name, escaped as `systemd-escape` does.
  static func unitName(_ text: String) -> String {
    text.utf8.enumerated().reduce(into: "") { result, byte in
      let scalar = Unicode.Scalar(byte.element)
      let isPlain =
        scalar.properties.isAlphabetic || ("0"..."9").contains(scalar)
        || ":_.".unicodeScalars.contains(scalar)
      if byte.element == UInt8(ascii: "/") {
        result += "-"
      } else if byte.element < 0x80, isPlain, !(byte.offset == 0 && scalar == ".") {
        result.unicodeScalars.append(scalar)
      } else {
        let digits = String(byte.element, radix: 16)
        result += "\\x" + (digits.count < 2 ? "0" : "") + digits
      }
    }
  }

  /// A text in one line, which libvirtd quotes best.
  private func line(_ error: any Error) -> String {
    guard case .refused(let problems)? = error as? LibvirtError else { return "\(error)" }
    return problems.map(tell).joined(separator: "; ")
  }
}
