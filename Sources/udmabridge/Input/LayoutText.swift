import Guest
import Linux
import Programs
import QEMU
import SystemPackage
import Tracing

/// A memory layout as text, one `LayoutLine` in a line. What follows # is a comment.
enum LayoutText {
  static func write(_ layout: GuestLayout) -> String {
    var text = "# address:length memory offset\n"
    for part in layout.joined {
      let backing = layout.backings[part.backing]
      let line = LayoutLine(
        address: part.address, length: part.length, memory: backing.name, offset: part.offset,
        isSealed: (try? backing.memfd?.seals().contains(.shrink)) ?? false)
      text += "\(line)\n"
    }
    return text
  }

  /// What such a text says.
  static func read(_ path: String) throws -> GuestLayout {
    let text: String
    do throws(Errno) { text = try readText(FilePath(path)) } catch {
      throw Trouble("the layout \(path) cannot be read: \(error)")
    }
    var lines: [LayoutLine] = []
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let said = line.prefix { $0 != "#" }
      if said.allSatisfy({ $0 == " " || $0 == "\t" }) { continue }
      guard let part = LayoutLine(Array(said.utf8)[...]) else {
        throw Trouble(
          "\(path), line \(number + 1): «\(line)» is not ADDRESS:LENGTH MEMORY [OFFSET] [unsealed], such as 0x100000000:1G mem 2G"
        )
      }
      lines.append(part)
    }
    return try layout(lines)
  }

  /// Memfds stand in for the memory, of which no page is ever touched.
  static func layout(_ lines: [LayoutLine]) throws -> GuestLayout {
    var memories: [(name: String, size: UInt64, isSealed: Bool)] = []
    var parts: [LayoutPart] = []
    for line in lines {
      let index = memories.firstIndex { $0.name == line.memory } ?? memories.count
      if index == memories.count { memories.append((line.memory, 0, true)) }
      memories[index].size = max(memories[index].size, line.offset + line.length)
      memories[index].isSealed = memories[index].isSealed && line.isSealed
      parts.append(
        LayoutPart(address: line.address, length: line.length, backing: index, offset: line.offset))
    }
    return GuestLayout(
      backings: try memories.map { try standIn($0.name, $0.size, isSealed: $0.isSealed) }, parts: parts,
      source: .text)
  }

  static func standIn(_ name: String, _ size: UInt64, isSealed: Bool = true) throws -> GuestBacking {
    do throws(Errno) {
      let memfd = try Memfd.create(name: "udmabridge-plan", size: size, seals: isSealed ? .shrink : [])
      return GuestBacking(name: name, kind: .memfd(memfd, descriptor: -1))
    } catch {
      throw Trouble("the memory \(name) of \(bytes(size)) is more than a file can stand for: \(error)")
    }
  }
}
