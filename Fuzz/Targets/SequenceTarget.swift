internal import Fixtures
internal import Guest
internal import Linux
internal import Scanout
internal import VirtioGPU

// Programs of small instructions: what a driver asks, and what a card, the machine and QEMU do meanwhile. Every
// input is a program, and most of them get far: numbers come from a small choice, so that commands meet.

func fuzzSequence(_ input: inout Input) throws {
  let program = try Program()
  for _ in 0..<96 where !input.isEmpty { try program.run(Instruction(&input)) }
  try program.machine.finish()
}

/// Eight bytes; what they mean depends on the first.
struct Instruction {
  static let size = 8

  let bytes: [UInt8]

  fileprivate init(_ input: inout Input) { bytes = (0..<Self.size).map { _ in input.byte() } }

  fileprivate enum Operation: CaseIterable {
    case create, create2, attach, attach2, transfer, setScanout, setScanout2, flush, flush2, flush3, unref,
      detach
    case createBlob, createBlob2, setScanoutBlob, setScanoutBlob2, map, map2, unmap, acknowledge, context
    case updateCursor, moveCursor, ask, mood, flip, settle, settle2, reset, pause, memory, outputs, paint
  }

  fileprivate var operation: Operation { Operation.allCases[Int(bytes[0]) % Operation.allCases.count] }

  /// Resources 1 to 6, and 0 now and then.
  fileprivate var resource: UInt32 { bytes[1] == 0xff ? 0 : UInt32(bytes[1] % 6) + 1 }
  fileprivate var scanout: UInt32 { UInt32(bytes[2] % 8 == 7 ? 2 : bytes[2] & 1) }
  fileprivate var isFenced: Bool { bytes[3] & 1 != 0 }
  /// Of the answer: enough most often.
  fileprivate func room(_ needed: Int) -> Int {
    bytes[3] < 0xf8 ? needed : [0, 8, 23, 25][Int(bytes[3] & 3)]
  }
}

private final class Program {
  let machine: Machine
  private var fence: UInt64 = 0
  /// The sizes that were asked for, by resource.
  private var sizes: [UInt32: (width: UInt32, height: UInt32)] = [:]

  init() throws { machine = try Machine() }

  func run(_ instruction: Instruction) throws {
    try perform(instruction)
    machine.collect()
    machine.checkQuotas()
  }

  private func perform(_ instruction: Instruction) throws {
    let bytes = instruction.bytes
    let id = instruction.resource
    switch instruction.operation {
    case .create, .create2: create(instruction)
    case .attach, .attach2: attach(instruction)
    case .transfer:
      let area = area(instruction)
      let stride = (sizes[id]?.width ?? 1) * 4
      let offset = UInt64(area.y) * UInt64(stride) + UInt64(area.x) * 4
      send(
        instruction, 0x105,
        area.words + (bytes[6] < 0xf0 ? offset : offset &+ UInt64(bytes[7])).bytes + words(id, 0))
    case .setScanout, .setScanout2:
      send(instruction, 0x103, area(instruction).words + words(instruction.scanout, id))
    case .flush, .flush2, .flush3: send(instruction, 0x104, area(instruction).words + words(id, 0))
    case .unref: send(instruction, 0x102, words(id, 0))
    case .detach: send(instruction, 0x107, words(id, 0))
    case .createBlob, .createBlob2: createBlob(instruction)
    case .setScanoutBlob, .setScanoutBlob2: setScanoutBlob(instruction)
    case .map, .map2:
      let page = UInt64(bytes[4] & 31)
      send(instruction, 0x208, words(id, 0) + (page << 12 | (bytes[5] == 0xff ? 1 : 0)).bytes, 32)
    case .unmap: send(instruction, 0x209, words(id, 0))
    case .acknowledge:
      machine.frontEnd.refuses = bytes[2] & 7 == 7
      machine.frontEnd.isGone = bytes[3] == 0xff
      machine.wasGone = machine.wasGone || machine.frontEnd.isGone
      machine.frontEnd.acknowledge(Int(bytes[1] & 3) + 1)
    case .context:
      let types: [UInt32] = [0x200, 0x201, 0x202, 0x203, 0x207]
      let type = types[Int(bytes[4]) % types.count]
      send(
        instruction, type,
        words(bytes[5] & 1 == 0 ? id : 0, 0) + [UInt8](repeating: 0, count: 64), context: UInt32(bytes[2] & 7)
      )
    case .updateCursor: sendCursor(instruction, 0x300)
    case .moveCursor: sendCursor(instruction, 0x301)
    case .ask:
      if bytes[4] & 1 == 0 {
        if bytes[4] & 2 == 0 {
          send(instruction, 0x100, [], 408)
        } else {
          send(instruction, 0x10b, words(id, 0), 40)
        }
      } else {
        send(instruction, 0x10a, words(instruction.scanout, 0), 1056)
      }
    case .mood: setMood(bytes)
    case .flip: for _ in 0...(bytes[2] & 3) { machine.card.flip(Int(bytes[1] & 1)) }
    case .settle, .settle2: try machine.settle()
    case .reset:
      machine.frontEnd.reset()
      machine.device.reset()
      machine.replaceDriver()
    case .pause: try machine.pause()
    case .memory: machine.changeMemory(bytes[1])
    case .outputs:
      if bytes[3] & 7 == 7 {
        try machine.changeOffers(Int(bytes[1] & 1), isCutOff: bytes[2] & 1 == 0)
      } else {
        machine.card.plug(Int(bytes[1] & 1))
      }
    case .paint:
      let pixels = [UInt8](repeating: bytes[2], count: 64 + Int(bytes[3]))
      machine.ram.write(pixels, at: UInt64(bytes[1] & 0x3f) << 10 | (bytes[4] & 1 == 0 ? 0 : 1 << 32))
    }
  }

  private func create(_ instruction: Instruction) {
    let bytes = instruction.bytes
    let sides: [UInt32] = [16, 64, 1, 17, 32, 64, 3, 48]
    var (width, height) = (sides[Int(bytes[4] & 7)], sides[Int(bytes[5] & 7)])
    if bytes[4] == 0xff { (width, height) = (65535, 65535) }
    if bytes[4] == 0xfe { width = 0 }
    let format =
      bytes[6] < 0xe0 ? UInt32(bytes[6] & 1) + 1 : [1, 2, 3, 4, 67, 68, 121, 134][Int(bytes[6] & 7)]
    sizes[instruction.resource] = (width, height)
    send(instruction, 0x101, words(instruction.resource, format, width, height))
  }

  private func createBlob(_ instruction: Instruction) {
    let bytes = instruction.bytes
    let id = instruction.resource
    sizes[id] = (16, 16)
    if bytes[4] & 1 == 0 {
      // Of the host's memory.
      let offer = UInt64(bytes[5] % 3)
      let size: UInt64 = bytes[6] == 0xff ? 4096 : offer == 1 ? 3 << 12 : 1 << 12
      return send(instruction, 0x10c, words(id, 2, UInt32(bytes[7] & 3), 0) + offer.bytes + size.bytes)
    }
    let pages = UInt64(bytes[6] % 8) + (bytes[6] >= 0xf8 ? 0 : 1)
    let first = UInt64(bytes[5] & 7) << 12
    let entries = pages == 0 || bytes[5] & 0x40 != 0 ? [] : first.bytes + words(UInt32(pages << 12), 0)
    let size = pages << 12 | (bytes[7] == 0xff ? 1 : 0)
    send(
      instruction, 0x10c,
      words(id, 1, UInt32(bytes[7] & 7), entries.isEmpty ? 0 : 1) + UInt64(0).bytes + size.bytes + entries)
  }

  private func setScanoutBlob(_ instruction: Instruction) {
    let bytes = instruction.bytes
    let side: UInt32 = [16, 32, 1, 64][Int(bytes[4] & 3)]
    let stride = bytes[5] < 0xf0 ? side * 4 : UInt32(bytes[5]) << 3
    let offset = bytes[6] < 0xf0 ? UInt32(bytes[6] & 7) << 10 : UInt32.max - UInt32(bytes[6])
    let source = Rectangle(x: 0, y: 0, width: side, height: bytes[7] & 1 == 0 ? side : 1)
    send(
      instruction, 0x10d,
      source.words + words(instruction.scanout, instruction.resource, side, side, UInt32(bytes[7] & 3), 0)
        + words(stride, 0, 0, 0, offset, 0, 0, 0))
  }

  private func attach(_ instruction: Instruction) {
    let bytes = instruction.bytes
    let size = sizes[instruction.resource] ?? (16, 16)
    let needed = UInt64(size.width) * UInt64(size.height) * 4
    let pages = min((needed + 4095) / 4096, 30)
    let first = UInt64(bytes[5] & 7) << 12 | (bytes[5] & 0x80 == 0 ? 0 : 1 << 32)
    var entries: [(address: UInt64, length: UInt32)] = []
    switch bytes[4] % 12 {
    case 0, 1, 2: entries = [(first, UInt32(pages << 12))]
    case 3, 4: entries = (0..<pages).reversed().map { (first + $0 << 12, 4096) }
    case 5: entries = (0..<pages).map { (first + 2 * $0 << 12, 4096) }
    // No entry begins or ends at a page.
    case 6: entries = [(first + 512, 512), (first + 2048, UInt32(truncatingIfNeeded: needed))]
    case 7: entries = (0..<8).map { (first + $0 * 2048, UInt32(truncatingIfNeeded: needed / 8)) }
    case 8: entries = [(first, UInt32(truncatingIfNeeded: needed - min(needed, 1)))]
    case 9: entries = [(first, 4096), (1 << 40, 4096)]
    case 10: entries = (0..<UInt64(bytes[6] & 31)).map { (first + $0 % 4 << 12, 4096) }
    // Over the border of two regions.
    default: entries = [((1 << 16) - 4096, UInt32(pages << 12))]
    }
    let count = bytes[7] < 0xf0 ? UInt32(entries.count) : UInt32(bytes[7] & 0xf)
    send(
      instruction, 0x106,
      words(instruction.resource, count) + entries.flatMap { $0.address.bytes + words($0.length, 0) })
  }

  /// Of the resource most often, all of it or a part.
  private func area(_ instruction: Instruction) -> Rectangle {
    let bytes = instruction.bytes
    let size = sizes[instruction.resource] ?? (16, 16)
    switch bytes[4] % 8 {
    case 0...3: return Rectangle(x: 0, y: 0, width: size.width, height: size.height)
    case 7:
      return Rectangle(
        x: UInt32(bytes[5]), y: UInt32(bytes[6]), width: UInt32(bytes[7]),
        height: bytes[7] & 1 == 0 ? 1 : .max - 7)
    default:
      let x = UInt32(bytes[5]) % max(1, size.width)
      let y = UInt32(bytes[6]) % max(1, size.height)
      return Rectangle(
        x: x, y: y, width: size.width - x, height: bytes[7] & 1 == 0 ? size.height - y : 1)
    }
  }

  private func setMood(_ bytes: [UInt8]) {
    machine.card.mood.isSlow = bytes[1] & 1 != 0
    machine.card.mood.fails = bytes[1] & 6 == 6
    machine.card.mood.isFull = bytes[1] & 0x18 == 0x18
    machine.card.mood.isRoomy = bytes[1] & 0x20 != 0
    machine.card.mood.isAttended = bytes[1] & 0xc0 != 0xc0
    let refusals: [SinkError.Refusal] = [
      .noOutput, .importing, .format, .stride, .mode, .part, .offset, .disconnected, .busy, .other,
    ]
    machine.card.mood.refusal = bytes[2] < 0xc0 ? nil : refusals[Int(bytes[2]) % refusals.count]
  }

  private func send(
    _ instruction: Instruction, _ type: UInt32, _ body: [UInt8], _ room: Int = 24, context: UInt32 = 0
  ) {
    send(instruction, type, body, room, queue: 0, context: context)
  }

  private func sendCursor(_ instruction: Instruction, _ type: UInt32) {
    let bytes = instruction.bytes
    let position = words(instruction.scanout, UInt32(bytes[4]), UInt32(bytes[5]), 0)
    let body = position + words(instruction.resource, UInt32(bytes[6]), UInt32(bytes[7]), 0)
    send(instruction, type, body, bytes[3] & 2 == 0 ? 0 : 24, queue: 1)
  }

  private func send(
    _ instruction: Instruction, _ type: UInt32, _ body: [UInt8], _ room: Int, queue: Int,
    context: UInt32 = 0
  ) {
    guard machine.hasRoom(queue, 1) else { return }
    if instruction.isFenced { fence += 1 }
    let header =
      words(type, instruction.isFenced ? 1 : 0) + (instruction.isFenced ? fence : 0).bytes + words(context, 0)
    machine.send(header + body, room: instruction.room(room), on: queue)
  }

  private func words(_ words: UInt32...) -> [UInt8] { words.flatMap(\.bytes) }
}

extension Rectangle {
  fileprivate var words: [UInt8] { [x, y, width, height].flatMap(\.bytes) }
}
