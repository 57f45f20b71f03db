import Guest
import Linux
import Programs
import QEMU
import SystemPackage

/// A memory layout as text, one part in a line: `ADDRESS:LENGTH MEMORY [OFFSET] [unsealed]`.
///
/// MEMORY is any name: parts with the same name belong to one memfd. OFFSET is the part's place in that memfd, by
/// default 0. `unsealed` says that udmabuf would refuse that memory. A comment follows #.
enum LayoutText {
  static func write(_ layout: GuestLayout) -> String {
    var text = "# address:length memory offset\n"
    for part in layout.joined {
      let backing = layout.backings[part.backing]
      // Names may hold blanks.
      let name = backing.name.replacing(" ", with: "_")
      let usable = (try? backing.memfd?.seals().contains(.shrink)) ?? false
      text += "\(part.address):\(hex(part.length)) \(name) \(hex(part.offset))\(usable ? "" : " unsealed")\n"
    }
    return text
  }

  /// Reads such a text. Memfds stand in for the memory; none of their pages is ever touched.
  static func read(_ path: String) throws -> GuestLayout {
    let text: String
    do throws(Errno) { text = try readText(FilePath(path)) } catch {
      throw Trouble("the layout \(path) cannot be read: \(error)")
    }
    var memories: [(name: String, size: UInt64, isSealed: Bool)] = []
    var parts: [LayoutPart] = []
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let words = line.prefix { $0 != "#" }.split(whereSeparator: { $0 == " " || $0 == "\t" })
      if words.isEmpty { continue }
      let trouble = Trouble(
        "\(path), line \(number + 1): «\(line)» is not ADDRESS:LENGTH MEMORY [OFFSET] [unsealed], such as 0x100000000:1G mem 2G"
      )
      let isSealed = words.last != "unsealed"
      let fields = isSealed ? words : words.dropLast()
      guard (2...3).contains(fields.count) else { throw trouble }
      let bounds = fields[0].split(separator: ":", omittingEmptySubsequences: false).map {
        Quantity(argument: String($0))
      }
      guard bounds.count == 2, let address = bounds[0]?.value, let length = bounds[1]?.value, length > 0,
        !address.addingReportingOverflow(length).overflow,
        let offset = fields.count == 3 ? Quantity(argument: String(fields[2]))?.value : 0,
        !offset.addingReportingOverflow(length).overflow
      else { throw trouble }
      let name = String(fields[1])
      let index = memories.firstIndex { $0.name == name } ?? memories.count
      if index == memories.count { memories.append((name, 0, true)) }
      memories[index].size = max(memories[index].size, offset + length)
      memories[index].isSealed = memories[index].isSealed && isSealed
      parts.append(LayoutPart(address: GuestAddress(address), length: length, backing: index, offset: offset))
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
      throw Trouble("the memory \(name) of \(bytes(size)) is larger than a file can be: \(error)")
    }
  }
}
