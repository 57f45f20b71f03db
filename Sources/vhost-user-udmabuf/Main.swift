import ArgumentParser
import Glibc
import Linux
import Logging
import Programs

let programName = "vhost-user-udmabuf"

@main
struct VhostUserUdmabuf: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: programName,
    abstract: "A virtio-gpu for QEMU that shows the guest's own pages, without a copy.",
    discussion: """
      Start it with a socket, and QEMU with
        -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
        -chardev socket,id=vg,path=SOCKET -device vhost-user-gpu-pci,chardev=vg -display none
      It ends when QEMU closes the connection. The exit status is 1 if there was an error.
      """,
    version: programVersion)

  @OptionGroup var options: Options

  func run() throws {
    if options.printCapabilities {
      // With both, libvirt chooses this back end for any <acceleration>. LibvirtOptions has what libvirt then passes.
      print(#"{"type": "gpu", "features": ["render-node", "virgl"]}"#)
      return
    }
    let toSystemLog = FD.standardErrorIsLost && SystemLog.replaceStandardError()
    let status: CInt
    do {
      let (options, domain, note) = try options.withDomain()
      let log = StandardErrorLog(
        program: programName, domain: domain, level: options.logLevel, toSystemLog: toSystemLog)
      let logger = Logger(label: programName) { _ in log }
      if let note { logger.warning("\(note)") }
      status = try Helper(options, logger).run()
    } catch {
      printError("\(programName): \(error)")
      status = 1
    }
    if status != 0 { throw ExitCode(status) }
  }
}
