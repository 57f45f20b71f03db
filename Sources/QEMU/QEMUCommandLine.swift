internal import Guest
internal import Linux
internal import SystemPackage

/// The monitors and the memory on QEMU's command line.
struct QEMUCommandLine {
  /// Each option with its value; options without one have none.
  private let options: [(name: String, value: String)]

  init(_ arguments: [String]) {
    var options: [(String, String)] = []
    var rest = arguments.dropFirst()
    while let word = rest.popFirst() {
      guard word.hasPrefix("-") else { continue }
      let name = String(word.drop { $0 == "-" })
      if let value = rest.first, !value.hasPrefix("-") {
        rest = rest.dropFirst()
        options.append((name, value))
      } else {
        options.append((name, ""))
      }
    }
    self.options = options
  }

  func values(_ name: String) -> [String] { options.filter { $0.name == name }.map(\.value) }

  var names: Set<String> { Set(options.map(\.name)) }

  /// The Unix sockets on which it listens for QMP.
  var monitors: [FilePath] {
    var paths: [String] = []
    for value in values("qmp") + values("qmp-pretty") where value.hasPrefix("unix:") {
      paths.append(String(Properties.words(value)[0].dropFirst(5)))
    }
    let controls = values("mon").map(Properties.init).filter { $0["mode"] == "control" }
    for chardev in values("chardev").map(Properties.init) where chardev.first == "socket" {
      if let path = chardev["path"],
        controls.contains(where: { $0["chardev"] == chardev["id"] || $0.first == chardev["id"] })
      {
        paths.append(path)
      }
    }
    return paths.map { FilePath($0) }
  }

  /// Why a command line does not prove the layout of memory.
  struct Doubt: Error { let why: String }

  /// The properties of a machine that do not change the layout of its RAM.
  private static let harmless: Set = [
    "type", "accel", "memory-backend", "usb", "vmport", "hpet", "pit", "smm", "acpi", "graphics", "mem-merge",
    "dump-guest-core", "kernel-irqchip", "kernel_irqchip", "i8042", "hmat",
  ]
  /// Options that can place, add or change memory.
  private static let doubtful: Set = [
    "numa", "global", "set", "readconfig", "M", "mem-path", "incoming", "loadvm", "xen-attach",
  ]

  /// The machine's shape and the id of the only memory backend, if no option can have made another layout.
  func shape() -> Result<(MachineShape, id: String), Doubt> {
    if let name = Self.doubtful.intersection(names).min() {
      return .failure(Doubt(why: "-\(name) may change it"))
    }
    let machines = values("machine").map(Properties.init)
    guard machines.count == 1, let properties = machines.first else {
      return .failure(Doubt(why: "there is not exactly one -machine"))
    }
    let type = properties["type"] ?? properties.first
    guard
      let machine = MachineShape.Machine.allCases.first(where: {
        type == $0.rawValue || type.hasPrefix("pc-\($0 == .q35 ? "q35" : "i440fx")-")
      })
    else { return .failure(Doubt(why: "only the machines q35 and pc are known, and this is «\(type)»")) }
    if let key = properties.keys.subtracting(Self.harmless).min() {
      return .failure(Doubt(why: "-machine \(key)= may change it"))
    }
    let sizes = values("m").map(Properties.init)
    guard sizes.count == 1, let size = sizes.first, size.keys.isSubset(of: ["size"]),
      let memory = Self.bytes(size["size"] ?? size.first)
    else { return .failure(Doubt(why: "-m is missing, or leaves room for memory that comes later")) }
    if memory < 64 << 20 { return .failure(Doubt(why: "it has less than 64 MiB of RAM")) }
    let memories = values("object").map(Properties.init).filter { $0.first.hasPrefix("memory-backend-") }
    guard memories.count == 1, let only = memories.first, only.first == "memory-backend-memfd",
      let id = only["id"],
      id == properties["memory-backend"]
    else { return .failure(Doubt(why: "its RAM is not one memory-backend-memfd that -machine names")) }
    return .success((MachineShape(machine, memory: memory), id))
  }

  /// `512`, `512M`, `2G`: MiB where no unit is given.
  private static func bytes(_ text: String) -> UInt64? {
    let units: [Character: UInt64] = ["K": 10, "M": 20, "G": 30, "T": 40]
    let unit = text.last.flatMap { units[Character($0.uppercased())] }
    guard let count = UInt64(unit == nil ? text[...] : text.dropLast()), count <= .max >> (unit ?? 20) else {
      return nil
    }
    return count << (unit ?? 20)
  }

  /// `FIRST,KEY=VALUE,...`, in which two commas stand for one.
  struct Properties {
    let first: String
    private(set) var pairs: [String: String] = [:]

    /// What stands between single commas.
    static func words(_ text: String) -> [String] {
      var words: [String] = [""]
      var rest = text[...]
      while let character = rest.popFirst() {
        if character == ",", rest.first != "," {
          words.append("")
        } else {
          if character == "," { rest = rest.dropFirst() }
          words[words.count - 1].append(character)
        }
      }
      return words
    }

    init(_ text: String) {
      let words = Self.words(text)
      first = words[0].contains("=") ? "" : words[0]
      for word in words {
        guard let equals = word.firstIndex(of: "=") else { continue }
        pairs[String(word[..<equals])] = String(word[word.index(after: equals)...])
      }
    }

    subscript(_ key: String) -> String? { pairs[key] }
    var keys: Set<String> { Set(pairs.keys) }
  }
}
