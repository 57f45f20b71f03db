import ArgumentParser
import Buffers
import KMS
import Linux
import Logging
import Programs
import Scanout
import SystemPackage
import Udmabuf
import VirtioGPU

/// `ID=WHAT[,ro][,uses=N]`
struct OfferOption: ExpressibleByArgument {
  enum Source {
    case memfd(ByteCount)
    case descriptor(CInt)
    case dumb(PixelSize, KMSTarget)
  }

  let id: UInt64
  let source: Source
  var isWritable = true
  /// At most this many blobs of it may exist at once.
  var uses = 1

  init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2, let id = UInt64(parts[0]), id > 0 else { return nil }
    self.id = id
    var words = parts[1].split(separator: ",", omittingEmptySubsequences: false)
    guard let source = Self.source(words.removeFirst()) else { return nil }
    self.source = source
    for word in words {
      if word == "ro" {
        isWritable = false
      } else if word.hasPrefix("uses="), let uses = Int(word.dropFirst(5)), uses > 0 {
        self.uses = uses
      } else {
        return nil
      }
    }
  }

  private static func source(_ text: Substring) -> Source? {
    let parts = text.split(separator: ":", maxSplits: 1).map(String.init)
    guard parts.count == 2 else { return nil }
    switch parts[0] {
    case "memfd": return ByteCount(argument: parts[1]).map { .memfd($0) }
    case "fd": return CInt(parts[1]).map { .descriptor($0) }
    case "dumb":
      let words = parts[1].split(separator: "@", maxSplits: 1).map(String.init)
      guard words.count == 2, let size = PixelSize(argument: words[0]), let card = try? KMSTarget(words[1])
      else { return nil }
      return .dumb(size, card)
    default: return nil
    }
  }
}

/// Opens and makes the offers to a guest, before the sandbox is entered.
final class StartingOffers {
  /// An inherited descriptor, which several offers may use.
  private final class Inherited {
    let fd: FD
    init(_ fd: consuming FD) { self.fd = fd }
  }

  private let options: Options
  let maker: OfferMaker
  private let cards: [KMSCard]
  private let logger: Logger
  private var inherited: [CInt: Inherited] = [:]
  /// Cards that were opened only for their buffers.
  private var opened: [String: KMSCard] = [:]

  /// Memory that this process made; no other process has it yet.
  private(set) var made: [UInt64: Memfd] = [:]

  private static let chosen = ShadowCause(.chosen, "--backing shadow asks for copies")

  /// - Parameter cards: the cards that are open already.
  init(
    _ options: Options, udmabuf: Result<UdmabufDevice, Errno>, cards: [KMSCard], _ logger: Logger
  ) throws(Errno) {
    (self.options, self.cards, self.logger) = (options, cards, logger)
    maker = try OfferMaker(udmabuf: udmabuf, copied: options.backing == .shadow ? Self.chosen : nil)
  }

  func hostMemory() throws -> HostMemory {
    let size = options.hostMemory.bytes
    let offers = try options.offer.map(make)
    if let large = offers.first(where: { $0.size > size }) {
      throw Trouble(
        "--offer \(large.id) has \(large.size) bytes, but the region has only \(size): give a larger --host-memory"
      )
    }
    return HostMemory(size: size, offers: offers)
  }

  private func make(_ option: OfferOption) throws -> HostOffer {
    switch option.source {
    case .memfd(let size):
      let pages = wholePages(min(size.bytes, 1 << 41))
      guard pages > 0, pages <= 1 << 40 else {
        throw failure(option, "a memfd of \(size) is empty or too large: give another size")
      }
      do {
        let memfd = try Memfd.create(
          name: "udmabridge-offer-\(option.id)", size: pages, seals: [.shrink, .grow, .seal])
        made[option.id] = memfd
        return try maker.make(
          option.id, of: memfd.withDescriptor { fd in try fd.duplicate() }, isWritable: option.isWritable,
          uses: option.uses)
      } catch { throw failure(option, "no memfd of \(size): \(error)") }
    case .descriptor(let number): return try offer(option, inherited: number)
    case .dumb(let size, let target):
      do {
        let (dmabuf, stride) = try card(target).share(width: size.width, height: size.height)
        logger.notice(
          "offer \(option.id): \(size) pixels of the card \(target), stride \(stride), \(dmabuf.size) bytes")
        return try maker.make(option.id, dmabuf, option.isWritable, option.uses)
      } catch { throw failure(option, "\(error)") }
    }
  }

  private func offer(_ option: OfferOption, inherited number: CInt) throws -> HostOffer {
    let file: Inherited
    if let known = inherited[number] {
      file = known
    } else {
      do throws(Errno) { file = Inherited(try FD.inherited(number)) } catch {
        throw failure(option, "there is no inherited descriptor \(number) (\(error))")
      }
      inherited[number] = file
    }
    do {
      return try maker.make(
        option.id, of: file.fd.duplicate(), isWritable: option.isWritable, uses: option.uses)
    } catch { throw failure(option, "descriptor \(number): \(error)") }
  }

  /// Opens a card once, so that it recognises its own buffers when they are shown.
  private func card(_ target: KMSTarget) throws(KMSError) -> KMSCard {
    let name = "\(KMSTarget(target.card))"
    if let card = cards.first(where: { $0.name == name }) ?? opened[name] { return card }
    let card = try KMSCard(target)
    opened[name] = card
    return card
  }

  private func failure(_ option: OfferOption, _ why: String) -> Trouble {
    Trouble("--offer \(option.id): \(why)")
  }
}
