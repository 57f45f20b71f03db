import ArgumentParser
import Glibc
import Linux
import Programs
import Scanout
import SystemPackage

struct Dump: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Write memory to standard output or a file: raw, as hexadecimal digits, or as a PNG image.",
    discussion: """
      It makes no dma-buf and needs no /dev/udmabuf. Ranges need not be whole pages.

        udmabridge dump --guest 4711 0x100000:64 --as hex
        udmabridge dump --qmp /run/qemu.sock @pages.txt --as png --size 1920x1080 --output screen.png
      """)

  enum Form: String, CaseIterable, ExpressibleByArgument { case raw, hex, png }

  @OptionGroup var memory: MemoryOptions

  @Option(name: .customLong("as"), help: "raw, hex, or png, which needs --size.")
  var form = Form.raw

  @Option(help: ArgumentHelp("The file to write; by default standard output.", valueName: "file"))
  var output: String?

  @OptionGroup(title: "The image, for png") var geometry: GeometryOptions

  @Flag(help: "Print the result as JSON; needs --output.")
  var json = false

  func validate() throws {
    if form == .png, geometry.size == nil, memory.lent.buffer == nil {
      throw ValidationError("--as png needs --size WxH")
    }
    if json, output == nil {
      throw ValidationError(
        "--json would be mixed with the memory on standard output: name a file with --output")
    }
  }

  private struct Facts: Encodable {
    let file: String
    let form: String
    /// The memory's size in bytes.
    let size: UInt64
  }

  func run() throws {
    let selection = try memory.open(writable: false, whole: false)
    let file = try openOutput()
    try exitOnBusError("udmabridge: the memory became shorter while it was read\n")
    switch form {
    case .raw: try selection.forEachPiece { piece in try unsafe file.write(piece.span.bytes) }
    case .hex: try writeHex(selection, file)
    case .png: try selection.writePNG(geometry.layout(of: selection), to: file)
    }
    if json, let output {
      print(try jsonText(Facts(file: output, form: form.rawValue, size: selection.size)))
    }
  }

  private func openOutput() throws -> FD {
    do throws(Errno) {
      guard let output else { return try FD.copy(ofInherited: 1) }
      return try FD.create(FilePath(output))
    } catch { throw Trouble("\(output ?? "standard output") cannot be written: \(FD.whyNotCreated(error))") }
  }

  /// Sixteen bytes in a line, after their offset in the chosen memory.
  private func writeHex(_ selection: Selection, _ file: borrowing FD) throws {
    var place: UInt64 = 0
    let digits = Array("0123456789abcdef".utf8)
    try selection.forEachPiece { piece in
      var text: [UInt8] = []
      text.reserveCapacity(piece.count * 5)
      for start in stride(from: 0, to: piece.count, by: 16) {
        let row = piece[start..<min(start + 16, piece.count)]
        for shift in stride(from: 36, through: 0, by: -4) {
          text.append(digits[Int((place + UInt64(start)) >> UInt64(shift) & 15)])
        }
        text.append(UInt8(ascii: " "))
        for index in 0..<16 {
          text.append(UInt8(ascii: " "))
          guard start + index < piece.count else {
            text += [UInt8(ascii: " "), UInt8(ascii: " ")]
            continue
          }
          let byte = piece[start + index]
          text += [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
        text += [UInt8(ascii: " "), UInt8(ascii: " ")]
        text += row.map { (0x20..<0x7f).contains($0) ? $0 : UInt8(ascii: ".") }
        text.append(UInt8(ascii: "\n"))
      }
      place += UInt64(piece.count)
      try unsafe file.write(text.span.bytes)
    }
  }
}
