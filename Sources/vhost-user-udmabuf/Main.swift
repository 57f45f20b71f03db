import ArgumentParser
import Glibc
import Linux

let programName = "vhost-user-udmabuf"
let programVersion = "0.1.0"

@main
struct VhostUserUdmabuf: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: programName,
    abstract: "A virtio-gpu for QEMU that shows the guest's own pages, without a copy.",
    discussion: """
      Start it with a socket, and QEMU with
        -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
        -chardev socket,id=vg,path=SOCKET -device vhost-user-gpu-pci,chardev=vg -display none
      It ends when QEMU closes the connection, with status 1 if that was because of an error.
      """,
    version: programVersion)

  @OptionGroup var options: Options

  func run() throws {
    if options.printCapabilities {
      print(#"{"type": "gpu", "features": []}"#)
      return
    }
    let status: CInt
    do {
      status = try Helper(options).run()
    } catch {
      printError("\(programName): \(error)")
      status = 1
    }
    if status != 0 { throw ExitCode(status) }
  }
}
