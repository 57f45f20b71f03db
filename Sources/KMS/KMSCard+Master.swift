internal import CDRM
internal import Linux
internal import SystemPackage

// DRM master: the one client of a card that may set modes.
extension KMSCard {
  /// Whether this descriptor may set modes.
  package var isMaster: Bool { file.isMaster }

  /// Makes sure that this process is DRM master. The process stays master until `dropMaster`, or until it closes the
  /// card.
  /// - Throws: `masterHeld` if another process is master, `masterRefused` if the kernel does not allow it.
  /// - The corresponding ioctl is `DRM_IOCTL_SET_MASTER`.
  package func becomeMaster() throws(KMSError) {
    if isMaster { return }
    do throws(Errno) { try file.call { drmSetMaster($0) } } catch {
      if error == .resourceBusy { throw .masterHeld(card: name, holder: masterHolder()) }
      let holder = masterHolder()
      throw holder == nil ? .masterRefused(card: name, error) : .masterHeld(card: name, holder: holder)
    }
  }

  /// The corresponding ioctl is `DRM_IOCTL_DROP_MASTER`.
  package func dropMaster() { _ = try? file.call { drmDropMaster($0) } }

  /// The program and the process that is master; nil if debugfs cannot be read, which takes root.
  private func masterHolder() -> String? {
    guard let digits = name.split(separator: "card").last, let minor = UInt32(digits),
      let text = try? readText(FilePath("/sys/kernel/debug/dri/\(minor)/clients"))
    else { return nil }
    return Self.masterHolder(clients: text)
  }

  /// Finds the master in debugfs's list of clients: name (which may hold blanks), process, device, then `y`
  /// for the master.
  static func masterHolder(clients text: String) -> String? {
    for line in text.split(separator: "\n").dropFirst() {
      let words = line.split(separator: " ")
      for index in words.indices.dropFirst().dropLast(2) {
        guard let process = UInt32(words[index]), UInt32(words[index + 1]) != nil else { continue }
        if words[index + 2] == "y" { return "\(words[..<index].joined(separator: " ")), process \(process)" }
      }
    }
    return nil
  }
}
