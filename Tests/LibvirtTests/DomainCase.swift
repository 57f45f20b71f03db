import DomainOptions
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

  /// The driver of a video of ours has more attributes.
  static func driver(_ attributes: String) -> Definition {
    changed { $0.devices = $0.devices.replacing("name='vhostuser'", with: "name='vhostuser' \(attributes)") }
  }
  private static func security(_ text: String) -> Definition {
    changed { $0.cpu = "<launchSecurity \(text)</launchSecurity>" }
  }
  private static func dimm(_ attributes: String) -> Definition {
    changed {
      $0.devices +=
        "<memory model='dimm'\(attributes)><target><size unit='GiB'>1</size><node>0</node></target></memory>"
    }
  }

  static let all = [
    DomainCase("nothing", ready, []),
    DomainCase(
      "SEV", security("type='sev'><policy>0x0003</policy>"), [.encrypted("sev")]),
    DomainCase("SEV-SNP", security("type='sev-snp'><policy>0x30000</policy>"), [.encrypted("sev-snp")]),
    DomainCase("TDX", security("type='tdx'><policy>0x10000001</policy>"), [.encrypted("tdx")]),
    DomainCase("a private DIMM", dimm(" access='private'"), [.deviceAccess("dimm")]),
    DomainCase("a shared DIMM", dimm(" access='shared'"), []),
    DomainCase("a DIMM that is like the rest", dimm(""), []),
    DomainCase("behind an IOMMU", driver("iommu='on' ats='on'"), [.feature("iommu")]),
    DomainCase("packed rings", driver("packed='on'"), [.feature("packed")]),
    DomainCase("both", driver("packed='on' iommu='on'"), [.feature("iommu"), .feature("packed")]),
    DomainCase("neither", driver("packed='off' iommu='off'"), []),
    DomainCase("aarch64", changed { $0.machine = "arch='aarch64' machine='virt'" }, []),
    DomainCase(
      "s390x",
      changed {
        $0.machine = "arch='s390x' machine='s390-ccw-virtio'"
        $0.devices = $0.devices.replacing(
          "<address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>",
          with: "<address type='ccw' cssid='0xfe' ssid='0x0' devno='0x0002'/>")
      }, [.noPCI("s390-ccw-virtio of s390x")]),
    DomainCase(
      "microvm", changed { $0.machine = "arch='x86_64' machine='microvm'" }, [.noPCI("microvm of x86_64")]),
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
