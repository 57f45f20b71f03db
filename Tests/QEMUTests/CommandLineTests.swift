import SystemPackage
import Testing

@testable import QEMU

/// What a command line proves about memory, and what it leaves open.
@Suite struct CommandLineTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let name, line: String
    var shape: MachineShape?
    var testDescription: String { name }

    init(_ name: String, _ line: String, _ shape: MachineShape? = nil) {
      (self.name, self.line, self.shape) = (name, line, shape)
    }
  }

  static let backend = "-object memory-backend-memfd,id=mem,size=2G,share=on"

  @Test(
    "a layout follows only where no option can have made another one",
    arguments: [
      Case(
        "q35", "-accel kvm -m 2G \(backend) -machine q35,memory-backend=mem -vga none",
        MachineShape(.q35, memory: 2 << 30)),
      Case(
        "pc of a version, type named",
        "-m size=2048 \(backend) -machine type=pc-i440fx-7.2,memory-backend=mem,accel=kvm",
        MachineShape(.pc, memory: 2 << 30)),
      Case("unknown machine", "-m 2G \(backend) -machine microvm,memory-backend=mem"),
      Case("no machine", "-m 2G \(backend)"),
      Case("two machines", "-m 2G \(backend) -machine q35,memory-backend=mem -machine smm=off"),
      Case("another split", "-m 2G \(backend) -machine q35,memory-backend=mem,max-ram-below-4g=1G"),
      Case("room for DIMMs", "-m 2G,slots=2,maxmem=8G \(backend) -machine q35,memory-backend=mem"),
      Case("no size", "\(backend) -machine q35,memory-backend=mem"),
      Case("nodes", "-m 2G \(backend) -machine q35,memory-backend=mem -numa node,memdev=mem"),
      Case("globals", "-m 2G \(backend) -machine q35,memory-backend=mem -global mch.extended-tseg-mbytes=48"),
      Case(
        "two backends",
        "-m 2G \(backend) -object memory-backend-memfd,id=other,size=1G -machine q35,memory-backend=mem"),
      Case(
        "another kind", "-m 2G -object memory-backend-file,id=mem,size=2G -machine q35,memory-backend=mem"),
      Case("the backend is not the machine's", "-m 2G \(backend) -machine q35"),
      Case("hardly any", "-m 16M \(backend) -machine q35,memory-backend=mem"),
    ])
  func proof(_ sample: Case) {
    let line = QEMUCommandLine(["qemu-system-x86_64"] + sample.line.split(separator: " ").map(String.init))
    switch line.shape() {
    case .success(let found): #expect(found.0 == sample.shape && found.id == "mem")
    case .failure(let doubt): #expect(sample.shape == nil && !doubt.why.isEmpty)
    }
  }

  @Test("the QMP sockets of a command line are found, whichever way they are named")
  func monitors() {
    let line = QEMUCommandLine([
      "qemu", "-qmp", "unix:/a,,b,server=on,wait=off", "-chardev", "socket,id=m,path=/run/m,server=on",
      "-mon",
      "chardev=m,mode=control", "-chardev", "socket,id=h,path=/run/h", "-mon", "chardev=h,mode=readline",
      "-qmp",
      "tcp:localhost:4444",
    ])
    #expect(line.monitors == ["/a,b", "/run/m"])
  }
}
