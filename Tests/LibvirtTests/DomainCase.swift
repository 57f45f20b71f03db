import Domains
import Testing

@testable import Libvirt

/// A domain and what stands against it.
struct DomainCase: Sendable, CustomTestStringConvertible {
  let name: String
  let definition: Definition
  let problems: [DomainProblem]
  var testDescription: String { name }

  init(_ name: String, _ definition: Definition, _ problems: [DomainProblem]) {
    (self.name, self.definition, self.problems) = (name, definition, problems)
  }

  static let ready: Definition = Definition(
    backing: Definition.shared, devices: Definition.own("/run/udmabridge/web?"))
  private static func changed(_ change: (inout Definition) -> Void) -> Definition {
    var definition = ready
    change(&definition)
    return definition
  }
  private static func graphics(_ text: String) -> Definition { changed { $0.devices += text } }
  private static func cells(_ text: String, backing: String) -> Definition {
    changed {
      $0.cpu = "<cpu><numa>\(text)</numa></cpu>"
      $0.backing = backing
    }
  }
  private static let memfd = "<memoryBacking><source type='memfd'/></memoryBacking>"

  static let all = [
    DomainCase("nothing", ready, []),
    DomainCase("plain", Definition(), [.memorySource(nil), .memoryAccess(nil), .video("vga")]),
    DomainCase(
      "files, private",
      changed {
        $0.backing = "<memoryBacking><source type='file'/><access mode='private'/></memoryBacking>"
      }, [.memorySource("file"), .memoryAccess("private")]),
    DomainCase(
      "huge pages", changed { $0.backing = "<memoryBacking><hugepages/></memoryBacking>" },
      [.memorySource(nil), .memoryAccess(nil)]),
    DomainCase("Xen", changed { $0.type = "xen" }, [.type("xen")]),
    DomainCase("no video", changed { $0.devices = "" }, [.video(nil)]),
    DomainCase(
      "a back end that is not ours",
      changed { $0.devices = Definition.own("/dev/dri/renderD128") }, [.acceleration]),
    DomainCase(
      "no render node",
      changed {
        $0.devices = "<video><driver name='vhostuser'/><model type='virtio'/></video>"
      }, [.acceleration]),
    DomainCase("a clone", changed { $0.name = "copy" }, [.otherDomain("web", own: "copy")]),
    DomainCase(
      "an option that there is not", changed { $0.devices = Definition.own("/run/udmabridge/web?fd=3") },
      [.reference("\(DomainError.unknownOption("fd"))")]),
    DomainCase("VNC", graphics("<graphics type='vnc' port='-1'/>"), [.graphics("vnc")]),
    DomainCase("SPICE", graphics("<graphics type='spice'/>"), [.graphics("spice without GL")]),
    DomainCase(
      "SPICE with GL",
      graphics("<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>"), []),
    DomainCase(
      "SPICE with GL off", graphics("<graphics type='spice'><gl enable='no'/></graphics>"),
      [.graphics("spice without GL")]),
    DomainCase("egl-headless", graphics("<graphics type='egl-headless'/>"), []),
    DomainCase(
      "VNC beside egl-headless", graphics("<graphics type='egl-headless'/><graphics type='vnc'/>"),
      [.graphics("vnc")]),
    DomainCase("nodes that share", cells("<cell id='0' memAccess='shared'/>", backing: memfd), []),
    DomainCase(
      "a node that does not say so",
      cells("<cell id='0' memAccess='shared'/><cell id='1'/>", backing: memfd),
      [.memoryAccess(nil)]),
    DomainCase(
      "a private node",
      cells(
        "<cell id='0' memAccess='shared'/><cell id='1' memAccess='private'/>", backing: Definition.shared),
      [.cellAccess("1")]),
  ]
}
