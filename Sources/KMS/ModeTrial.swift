internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// Finds out which modes an output can show. The card tests a framebuffer of each size, first of a udmabuf like a
/// guest's. If the card refuses that, it tests one of its own memory. Nothing is shown.
final class ModeTrial {
  struct Verdict {
    /// The modes that the card can show, the preferred one first.
    var shown: [DisplayMode] = []
    /// The modes of `shown` that the card can show from guest memory.
    var lent: [DisplayMode] = []
    /// Whether the card can show a cursor above the picture.
    var hasCursor = false
    /// The card's refusals and their reasons, in words.
    var refusals: [String] = []
  }

  /// At most this many sizes are tried; the kernel's lists of modes are shorter.
  private static let maximumSizes = 64

  private let card: KMSCard
  private let udmabuf: UdmabufDevice?
  /// The card's own memory: one buffer for all sizes that fit into it.
  private var buffer: (memory: DumbBuffer, size: PixelSize)?

  init(_ card: KMSCard, _ udmabuf: UdmabufDevice?) { (self.card, self.udmabuf) = (card, udmabuf) }

  func run(_ output: KMSOutput) -> Verdict {
    var sizes: [PixelSize] = []
    for mode in output.modes where !sizes.contains(mode.size) && sizes.count < Self.maximumSizes {
      sizes.append(mode.size)
    }
    var verdict = Verdict()
    let lent = Set(tryLent(sizes, output, &verdict))
    var shown = lent
    let largest = PixelSize(
      width: sizes.map(\.width).max() ?? 0, height: sizes.map(\.height).max() ?? 0)
    var cursorIsTried = output.cursor == nil
    for size in sizes where !lent.contains(size) || !cursorIsTried {
      do throws(SinkError) {
        let takesCursor = try tryOwn(size, output, roomFor: largest)
        if !cursorIsTried { (cursorIsTried, verdict.hasCursor) = (true, takesCursor) }
        shown.insert(size)
      } catch {
        if !lent.contains(size) { verdict.refusals.append("\(size) cannot be shown: \(error.description)") }
      }
    }
    output.forgetTests()
    // Without a screen there was no mode to test.
    if sizes.isEmpty { verdict.hasCursor = output.cursor != nil }
    verdict.shown = output.modes.filter { shown.contains($0.size) }.map(\.mode)
    verdict.lent = output.modes.filter { lent.contains($0.size) }.map(\.mode)
    return verdict
  }

  private func layout(_ size: PixelSize) -> FrameLayout {
    FrameLayout(width: size.width, height: size.height, format: .xrgb8888, stride: size.width * 4)
  }

  // MARK: A guest's memory

  private func tryLent(_ sizes: [PixelSize], _ output: KMSOutput, _ verdict: inout Verdict) -> [PixelSize] {
    // One file for all sizes: its pages are allocated once.
    guard let udmabuf, let largest = sizes.map({ layout($0).pages }).max(),
      let memfd = try? Memfd.create(name: "udmabridge-trial", size: largest, seals: .shrink)
    else { return [] }
    var lent: [PixelSize] = []
    for size in sizes {
      do throws(SinkError) {
        try tryLent(size, output, udmabuf, memfd)
        lent.append(size)
      } catch {
        verdict.refusals.append("\(size) cannot be shown without copying: \(error.description)")
        // The card would refuse other sizes too.
        if error.refusal.concernsAllMemory { break }
      }
    }
    return lent
  }

  private func tryLent(
    _ size: PixelSize, _ output: KMSOutput, _ udmabuf: UdmabufDevice, _ memfd: Memfd
  ) throws(SinkError) {
    let layout = layout(size)
    let dmabuf: DMABuf
    do throws(UdmabufError) {
      dmabuf = try udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: layout.pages))
    } catch { throw SinkError(.other, error.description) }
    let framebuffer = try card.makeFramebuffer(.lent(dmabuf), layout, for: output.pipe.plane)
    defer { card.removeFramebuffer(framebuffer) }
    do throws(Errno) { try output.test(framebuffer, layout.bounds) } catch {
      throw SinkError(.mode, "the card refuses the mode: \(error)")
    }
  }

  // MARK: The card's memory

  /// - Returns: whether a cursor could be shown too.
  private func tryOwn(
    _ size: PixelSize, _ output: KMSOutput, roomFor largest: PixelSize
  ) throws(SinkError) -> Bool {
    do throws(SinkError) { return try tryOwn(size, output, in: shared(largest)) } catch {
      if size == largest { throw error }
      // The card may refuse only the stride of the large buffer.
      return try tryOwn(size, output, in: card.allocate(size))
    }
  }

  private func shared(_ size: PixelSize) throws(SinkError) -> DumbBuffer {
    if let buffer, buffer.size.holds(size) { return buffer.memory }
    let memory = try card.allocate(size)
    buffer = (memory, size)
    return memory
  }

  private func tryOwn(
    _ size: PixelSize, _ output: KMSOutput, in buffer: DumbBuffer
  ) throws(SinkError) -> Bool {
    var layout = layout(size)
    layout.stride = buffer.stride
    layout.format = try card.format(wanted: layout.format, for: output.pipe.plane)
    let framebuffer = try card.makeFramebuffer(.shadow(buffer), layout, for: output.pipe.plane)
    defer { card.removeFramebuffer(framebuffer) }
    do throws(Errno) { try output.test(framebuffer, layout.bounds) } catch {
      throw SinkError(.mode, "the card refuses the mode: \(error)")
    }
    guard output.cursor != nil else { return false }
    return (try? output.test(framebuffer, layout.bounds, withCursor: true)) != nil
  }
}
