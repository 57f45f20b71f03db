internal import CDRM
internal import Linux
internal import Scanout
package import SystemPackage
package import Udmabuf

/// The abilities of one card, tested without showing anything and without ending a session.
package struct KMSProbe: Sendable {
  package enum Verdict: Equatable, Sendable, CustomStringConvertible {
    case yes
    /// Why not.
    case no(String)
    /// Why it could not be tried.
    case untested(String)

    package var description: String {
      switch self {
      case .yes: "yes"
      case .no(let why): "no: \(why)"
      case .untested(let why): "not tried: \(why)"
      }
    }
  }

  package let path: FilePath
  /// Why the card could not be opened. All other facts are then empty or untested.
  package let error: String?
  /// The kernel driver, such as `bochs-drm`.
  package let driver: String
  package let isAtomic: Bool
  package let connectors: [KMSConnector]
  /// The number of cursor planes.
  package let cursorPlanes: Int
  /// The size in pixels of the udmabuf that was tried: the preferred mode of the first connected connector.
  package let triedSize: String
  /// Whether the card imports a udmabuf.
  package let importsUdmabuf: Verdict
  /// Whether the card makes a framebuffer of the udmabuf.
  package let framebuffer: Verdict
  /// Whether the card would show the framebuffer. The test needs DRM master, so it is not tried while another process
  /// is master.
  package let commit: Verdict

  /// Probes every `/dev/dri/card*`. Each card is closed again.
  package static func all(_ udmabuf: UdmabufDevice?) -> [KMSProbe] {
    KMSCard.paths().map { KMSProbe($0, udmabuf) }
  }

  package init(_ path: FilePath, _ udmabuf: UdmabufDevice?) {
    self.path = path
    do throws(KMSError) {
      let card = try KMSCard(KMSTarget(.path(path)))
      (error, driver, isAtomic) = (nil, card.driver, card.isAtomic)
      (connectors, cursorPlanes) = (card.connectors, card.cursorPlanes)
      let first = card.connectors.first { $0.isConnected && !$0.usableModes.isEmpty }
      let size = first?.usableModes.first?.size ?? PixelSize(width: 64, height: 64)
      triedSize = size.description
      (importsUdmabuf, framebuffer, commit) = Self.attempt(card, first, size, udmabuf)
    } catch {
      (self.error, driver, isAtomic) = (error.description, "", false)
      (connectors, cursorPlanes, triedSize) = ([], 0, "")
      let untested = Verdict.untested("the card was not opened")
      (importsUdmabuf, framebuffer, commit) = (untested, untested, untested)
    }
  }

  private static func attempt(
    _ card: KMSCard, _ connector: KMSConnector?, _ size: PixelSize, _ udmabuf: UdmabufDevice?
  ) -> (Verdict, Verdict, Verdict) {
    let later = Verdict.untested("the step before failed")
    guard let udmabuf else {
      let missing = Verdict.untested("there is no \(UdmabufDevice.path)")
      return (missing, missing, missing)
    }
    let layout = FrameLayout(
      width: size.width, height: size.height, format: .xrgb8888, stride: size.width * 4)
    guard let memfd = try? Memfd.create(name: "udmabridge-probe", size: layout.pages, seals: .shrink) else {
      let missing = Verdict.untested("no memfd of \(layout.pages) bytes")
      return (missing, missing, missing)
    }
    card.tryImport(udmabuf)
    do throws(UdmabufError) {
      let dmabuf = try udmabuf.create(MemfdRange(memfd: memfd, offset: 0, length: layout.pages))
      do throws(SinkError) {
        let pipe = connector.flatMap { try? KMSPipe.choose([$0.name], of: card, limit: 1).first }
        if card.crtcs.isEmpty {
          let screenless = Verdict.untested("the card has no mode setting")
          return (try importOnly(card, dmabuf), screenless, screenless)
        }
        let id = try card.makeFramebuffer(.lent(dmabuf), layout, for: pipe?.plane)
        defer { card.removeFramebuffer(id) }
        guard let pipe else { return (.yes, .yes, .untested("no connector has a screen")) }
        return (.yes, .yes, test(card, pipe, id, layout))
      } catch {
        let refused = Verdict.no(error.description)
        return error.refusal.concernsAllMemory
          ? (refused, later, later) : (.yes, refused, later)
      }
    } catch {
      let missing = Verdict.untested(error.description)
      return (missing, missing, missing)
    }
  }

  private static func importOnly(_ card: KMSCard, _ dmabuf: DMABuf) throws(SinkError) -> Verdict {
    let handle = try card.importHandle(dmabuf)
    card.closeHandle(handle)
    return .yes
  }

  private static func test(_ card: KMSCard, _ pipe: KMSPipe, _ id: UInt32, _ layout: FrameLayout) -> Verdict {
    guard card.isAtomic else { return .untested("the driver has no atomic commits to test with") }
    do throws(KMSError) {
      try card.becomeMaster()
      let output = try KMSOutput(pipe, of: card)
      do throws(Errno) { try output.test(id, layout.bounds) } catch {
        return .no("the card refuses the mode: \(error)")
      }
      return .yes
    } catch { return .untested(error.description) }
  }
}
