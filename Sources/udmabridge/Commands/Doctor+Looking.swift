import Linux
import QEMU
import SystemPackage
import Udmabuf

/// Checks what the tool's other commands need: memfds, other processes, the kernel's list and running guests.
extension Doctor {
  func checkMemfds(_ report: inout Report) {
    do throws(Errno) {
      _ = try Memfd.create(name: "udmabridge-doctor", size: systemPageSize, seals: [.seal, .shrink, .grow])
    } catch {
      return report.failed(
        "memfd", "no sealed memfd can be made: \(error)", remedy: "look into the kernel's log")
    }
    if (try? Memfd.create(name: "udmabridge-doctor", size: 2 << 20, pages: .huge(2 << 20))) != nil {
      report.ok("memfd", "sealed memfds can be made, of huge pages too")
    } else {
      report.limited(
        "memfd", "sealed memfds can be made, but not of huge pages",
        remedy: "a kernel with CONFIG_HUGETLBFS, if a guest is to have huge pages")
    }
  }

  func checkLooking(_ report: inout Report) {
    let mayTrace = 19  // CAP_SYS_PTRACE (linux/capability.h)
    let status = (try? readText("/proc/self/status")) ?? ""
    let effective = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
    let capabilities =
      effective.flatMap { UInt64($0.dropFirst(7).drop(while: \.isWhitespace), radix: 16) } ?? 0
    let scope = (try? readText("/proc/sys/kernel/yama/ptrace_scope"))?.first?.wholeNumberValue ?? 0
    if scope == 3 {
      report.limited(
        "processes",
        "no process may look into another one (kernel.yama.ptrace_scope is 3): --pid, --guest and --qmp cannot work",
        remedy: "set kernel.yama.ptrace_scope to a lower value at the next boot")
    } else if capabilities >> UInt64(mayTrace) & 1 == 1 {
      report.ok("processes", "CAP_SYS_PTRACE: every process may be looked into")
    } else if scope > 0 {
      report.limited(
        "processes", "kernel.yama.ptrace_scope is \(scope): --pid, --guest and --qmp work as root only",
        remedy: "run as root, or as root: sysctl kernel.yama.ptrace_scope=0")
    } else {
      report.limited(
        "processes", "only processes of this user and group may be looked into",
        remedy: "run as root to look into others, such as guests of libvirt")
    }
  }

  func checkKernelList(_ report: inout Report) {
    if KernelBuffers() != nil {
      report.ok("debugfs", "\(KernelBuffers.path) tells of all dma-bufs")
    } else {
      report.limited(
        "debugfs",
        "\(KernelBuffers.path) cannot be read: list shows the dma-bufs that processes hold, but not those that only "
          + "the kernel holds",
        remedy: "as root: udmabridge doctor --mend, or mount -t debugfs debugfs /sys/kernel/debug")
    }
  }

  /// Any process can call itself QEMU and answer slowly, so the time is limited.
  /// - Parameters:
  ///   - patience: how long all guests together may take.
  ///   - share: how long each of them may.
  func checkGuests(_ report: inout Report, patience: TimeSpan = .seconds(60), share: TimeSpan = .seconds(10))
  {
    let end = Instant.now + patience
    var leftOut = 0
    defer {
      if leftOut > 0 {
        report.limited(
          "guests",
          "\(counted(leftOut, "process", "processes")) called qemu-system not looked into: the others used up the "
            + "\(patience) for all",
          remedy: "udmabridge ram --guest PID looks into a single one")
      }
    }
    for pid in processNumbers() {
      guard let name = try? RunningProcess(pid).name(), name.hasPrefix("qemu-system") else { continue }
      let left = end - .now
      if left <= .zero {
        leftOut += 1
        continue
      }
      do throws(QEMUError) {
        checkGuest(&report, pid, try RunningQEMU(pid: pid, patience: min(left, share)))
      } catch {
        report.limited(
          "guest \(pid)", explained(error),
          remedy: "what the line says; udmabridge ram --guest \(pid) says it alone")
      }
    }
  }

  private func checkGuest(_ report: inout Report, _ pid: Int32, _ qemu: RunningQEMU) {
    let name = "guest \(pid)"
    do throws(QEMUError) {
      let layout = try qemu.layout()
      let by = qemu.monitorPath.map { "by the monitor \($0)" } ?? "by its command line"
      let lendable = layout.backings.filter { backing in
        (try? backing.memfd?.seals().contains(.shrink)) ?? false
      }
      guard !lendable.isEmpty else {
        return report.limited(
          name, "its memory is known \(by), but none of it is a sealed memfd",
          remedy:
            "start QEMU with -object memory-backend-memfd,id=mem,size=...,share=on -machine ...,memory-backend=mem"
        )
      }
      let names = lendable.map { "\($0.name) (\(bytes($0.memfd?.status.size ?? 0)))" }
      report.ok(name, "its memory can be lent, known \(by): \(names.joined(separator: ", "))")
    } catch {
      report.limited(
        name, explained(error), remedy: "what the line says; udmabridge ram --guest \(pid) says it alone")
    }
  }
}
