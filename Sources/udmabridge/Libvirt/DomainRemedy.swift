import Libvirt

extension DomainProblem {
  /// How to mend the problem.
  var remedy: String {
    switch self {
    case .type: "only domains of type kvm and qemu can be enabled"
    case .noPCI: "choose a machine with virtio on PCI, such as q35, pc or virt"
    case .encrypted: "take <launchSecurity> out; the memory of a guest that needs it cannot be lent"
    case .memorySource:
      "<memoryBacking><source type='memfd'/></memoryBacking>; udmabridge libvirt enable does that"
    case .memoryAccess:
      "<memoryBacking><access mode='shared'/></memoryBacking>; udmabridge libvirt enable does that"
    case .cellAccess: "give the cell memAccess='shared', or leave memAccess out"
    case .deviceAccess: "give the device access='shared', or leave access out"
    case .feature(let attribute): "take \(attribute)='on' out; udmabridge libvirt enable does that"
    case .video, .acceleration, .otherDomain:
      "<driver name='vhostuser'/>, <model type='virtio'>, and in that <acceleration rendernode='/run/udmabridge/NAME?'/>; "
        + "udmabridge libvirt enable does that"
    case .nameTooLong: "virsh domrename, while the domain is shut off"
    case .reference: "udmabridge libvirt enable --option NAME=VALUE writes it anew"
    case .graphics(let type):
      "udmabridge libvirt enable --remove-graphics takes it out, and disable puts it back; or choose one that can: "
        + (type.hasPrefix("spice") ? "<gl enable='yes'/> with <listen type='none'/> in it, " : "")
        + "<graphics type='egl-headless'/> or none at all; see the guest by udmabridge snapshot and present"
    }
  }
}
