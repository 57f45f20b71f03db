internal import FoundationEssentials
internal import Linux
package import QEMU
internal import SystemPackage

extension LibvirtDomain: QEMUMonitor {
  package func monitor(_ command: String) throws(QEMUError) -> String {
    do throws(LibvirtError) { return try ask(command, human: true) } catch {
      throw .monitor(monitorName, "\(error)")
    }
  }

  package func version() throws(QEMUError) -> String {
    // 10.0.2Debian 1:10.0.2+ds-2
    String(try monitor("info version").prefix { $0.isNumber || $0 == "." })
  }

  private var monitorName: FilePath { FilePath("of domain \(name)") }

  /// The process of the domain's QEMU.
  package func qemu() throws -> RunningQEMU {
    guard isActive else { throw LibvirtError.domain(name, "it does not run") }
    // The file is libvirtd's own; a name has no slash.
    let file = FilePath("/run/libvirt/qemu").appending(name + ".pid")
    guard let text = try? readText(file), let pid = Int32(text.filter { !$0.isWhitespace }) else {
      throw LibvirtError.domain(
        name, "\(file) does not say which process it is: run as root, on the domain's host")
    }
    return try RunningQEMU(monitor: self, named: monitorName, pid: pid)
  }

  func execute(_ command: String, _ arguments: [String: JSONValue]) throws(LibvirtError) -> Data {
    let request: JSONValue = .object(["execute": .text(command), "arguments": .object(arguments)])
    guard let json = try? JSONEncoder().encode(request) else { preconditionFailure("it can be encoded") }
    let answer = Data(try ask(String(decoding: json, as: UTF8.self), human: false).utf8)
    if let failure = try? JSONDecoder().decode(Failure.self, from: answer) {
      throw .monitor(name, "\(command): \(failure.error.desc)")
    }
    return answer
  }

  private struct Failure: Decodable {
    struct Reason: Decodable { let desc: String }
    let error: Reason
  }
}

extension RecoverableDomain {
  /// The children of an object of QEMU: the name and the type of each.
  func members(_ path: String) throws(LibvirtError) -> [(name: String, type: String)] {
    let answer = try execute("qom-list", ["path": .text(path)])
    guard let result = try? JSONDecoder().decode(Members.self, from: answer) else {
      throw .monitor(name, "qom-list: the answer cannot be understood")
    }
    return result.return.map { ($0.name, $0.type) }
  }

  /// A boolean property of an object of QEMU.
  func truth(of property: String, in path: String) throws(LibvirtError) -> Bool {
    let answer = try execute("qom-get", ["path": .text(path), "property": .text(property)])
    guard let result = try? JSONDecoder().decode(Truth.self, from: answer) else {
      throw .monitor(name, "qom-get: the answer cannot be understood")
    }
    return result.return
  }
}

private struct Members: Decodable {
  struct Member: Decodable { let name, type: String }
  let `return`: [Member]
}

private struct Truth: Decodable { let `return`: Bool }

/// A value in QMP's arguments.
indirect enum JSONValue: Encodable {
  case text(String)
  case number(Int)
  case truth(Bool)
  case object([String: JSONValue])

  func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .text(let text): try container.encode(text)
    case .number(let number): try container.encode(number)
    case .truth(let truth): try container.encode(truth)
    case .object(let members): try container.encode(members)
    }
  }
}
