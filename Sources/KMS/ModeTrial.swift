internal import Linux
internal import Scanout
internal import SystemPackage
internal import Udmabuf

/// Finds out which modes of an output can be shown, by asking the card with a framebuffer of each size: a
/// udmabuf as those of guests are, and one of the card's own if that is refused. Nothing is shown.
struct ModeTrial {
  struct Verdict {
    /// What can be shown, the preferred one first.
    var shown: [DisplayMode] = []
    /// Of these, what can be shown from guest memory.
    var lent: [DisplayMode] = []
    /// Why not, in words.
    var refusals: [String] = []
  }

  /// More sizes than this are not tried; the kernel's lists of modes are shorter.
  private static let maximumSizes = 64

  private let card: KMSCard
  private let udmabuf: UdmabufDevice?

  init(_ card: KMSCard, _ udmabuf: UdmabufDevice?) { (self.card, self.udmabuf) = (card, udmabuf) }

  func run(_ output: KMSOutput) -> Verdict {
    var sizes: [PixelSize] = []
    for mode in output.modes where !sizes.contains(mode.size) && sizes.count < Self.maximumSizes {
      sizes.append(mode.size)
    }
    // One file for all sizes: its pages are allocated once.
    let largest = sizes.map { layout($0).pages }.max() ?? 0
    let memfd = udmabuf.flatMap { _ in
      try? Memfd.create(name: "udmabridge-trial", size: largest, seals: .shrink)
    }
    var verdict = Verdict()
    var (shown, lent) = (Set<PixelSize>(), Set<PixelSize>())
    for size in sizes {
      do throws(SinkError) {
        if let udmabuf, let memfd {
          try tryLent(size, output, udmabuf, memfd)
          lent.insert(size)
          shown.insert(size)
          continue
        }
      } catch { verdict.refusals.append("\(size) cannot be shown without copying: \(error.description)") }
      do throws(Errno) {
        try tryOwn(size, output)
        shown.insert(size)
      } catch { verdict.refusals.append("\(size) cannot be shown: \(error)") }
    }
    output.forgetTests()
    verdict.shown = output.modes.filter { shown.contains($0.size) }.map(\.mode)
    verdict.lent = output.modes.filter { lent.contains($0.size) }.map(\.mode)
    return verdict
  }

  private func layout(_ size: PixelSize) -> FrameLayout {
    FrameLayout(width: size.width, height: size.height, format: .xrgb8888, stride: size.width * 4)
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
      throw SinkError(.mode, "the mode is refused: \(error)")
    }
  }

  private func tryOwn(_ size: PixelSize, _ output: KMSOutput) throws(Errno) {
    let buffer = try DumbBuffer(size, of: card.file)
    var layout = layout(size)
    layout.stride = buffer.stride
    let framebuffer = try card.addFramebuffer(buffer.handle, layout, layout.format, modifier: nil)
    defer { card.removeFramebuffer(framebuffer) }
    try output.test(framebuffer, layout.bounds)
  }
}
