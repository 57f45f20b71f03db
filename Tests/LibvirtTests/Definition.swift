/// A domain as libvirt 9.0 reports one, and others that differ from it.
struct Definition: Sendable {
  var name = "web"
  var type = "kvm"
  var machine = "arch='x86_64' machine='pc-q35-7.2'"
  var backing = ""
  var cpu = ""
  var devices = Definition.vga

  static let vga = """
        <video>
          <model type='vga' vram='16384' heads='1' primary='yes'/>
          <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
        </video>
    """
  static let shared = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
  static func own(_ reference: String) -> String {
    """
        <video>
          <driver name='vhostuser'/>
          <model type='virtio' heads='1' primary='yes'>
            <acceleration rendernode='\(reference)'/>
          </model>
          <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
        </video>
    """
  }

  var text: String {
    """
    <domain type='\(type)'>
      <name>\(name)</name>
      <uuid>26f97d3f-a7a5-46a4-9081-b4058cd341bd</uuid>
      <memory unit='KiB'>65536</memory>
      <currentMemory unit='KiB'>65536</currentMemory>
      \(backing)
      <vcpu placement='static'>1</vcpu>
      <!-- kept -->
      <os>
        <type \(machine)>hvm</type>
      </os>
      \(cpu)
      <devices>
        <emulator>/usr/bin/qemu-system-x86_64</emulator>
    \(devices)
        <memballoon model='none'/>
      </devices>
    </domain>

    """
  }
}
