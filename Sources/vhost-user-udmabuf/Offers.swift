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
  /// So many blobs of it may exist at once.
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

/// Opens and makes what a guest is offered, before the sandbox is entered.
final class Offers {
  /// A descriptor that was inherited: several offers may be of it.
  private final class Inherited {
    let fd: FD
    init(_ fd: consuming FD) { self.fd = fd }
  }

  private let options: Options
  private let udmabuf: Result<UdmabufDevice, Errno>
  private let cards: [KMSCard]
  private let logger: Logger
  private var inherited: [CInt: Inherited] = [:]
  /// Cards that were opened for their buffers alone.
  private var opened: [String: KMSCard] = [:]

  /// What this process has made itself, which nobody else has yet.
  private(set) var made: [UInt64: Memfd] = [:]

  private static let chosen = ShadowCause(.chosen, "copies were asked for by --backing shadow")

  /// - Parameter cards: those that are open already.
  init(_ options: Options, udmabuf: Result<UdmabufDevice, Errno>, cards: [KMSCard], _ logger: Logger) {
    (self.options, self.udmabuf, self.cards, self.logger) = (options, udmabuf, cards, logger)
  }

  func hostMemory() throws -> HostMemory {
    let size = options.hostMemory.bytes
    let offers = try options.offer.map(make)
    if let large = offers.first(where: { $0.size > size }) {
      throw Trouble(
        "--offer \(large.id) has \(large.size) bytes, but the region has \(size): give a larger --host-memory"
      )
    }
    return HostMemory(size: size, offers: offers)
  }

  private func make(_ option: OfferOption) throws -> HostOffer {
    switch option.source {
    case .memfd(let size):
      let pages = wholePages(min(size.bytes, 1 << 41))
      guard pages > 0, pages <= 1 << 40 else {
        throw failure(option, "a memfd of \(size) has no, or too many, bytes")
      }
      do throws(Errno) {
        let memfd = try Memfd.create(
          name: "udmabridge-offer-\(option.id)", size: pages, seals: [.shrink, .grow, .seal])
        made[option.id] = memfd
        return try offer(option, memfd)
      } catch { throw failure(option, "no memfd of \(size): \(error)") }
    case .descriptor(let number): return try offer(option, inherited: number)
    case .dumb(let size, let target):
      do {
        let (dmabuf, stride) = try card(target).share(width: size.width, height: size.height)
        logger.notice(
          "offer \(option.id): \(size) pixels of the card \(target), stride \(stride), \(dmabuf.size) bytes")
        return try offer(option, dmabuf)
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
    do throws(Errno) {
      let memfd = try Memfd(adopting: file.fd.duplicate())
      if let seals = try? memfd.seals() {
        guard seals.contains(.shrink) else { throw .notPermitted }
        return try offer(option, memfd)
      }
      let dmabuf = try DMABuf(adopting: file.fd.duplicate())
      if try dmabuf.exporter() != nil { return try offer(option, dmabuf) }
    } catch {
      let why =
        switch error {
        case .readOnlyFileSystem:
          "is a dma-buf that can be written; ro needs one that was made without DRM_RDWR"
        case .notPermitted:
          "is a memfd that can become shorter, which would end this process when it is read: seal it with F_SEAL_SHRINK "
            + "before (udmabridge memfd --seal shrink makes such)"
        default: "cannot be mapped as it is to be offered, in whole pages: \(error)"
        }
      throw failure(option, "descriptor \(number) \(why)")
    }
    throw failure(option, "descriptor \(number) is neither a memfd nor a dma-buf")
  }

  private func offer(_ option: OfferOption, _ memfd: Memfd) throws(Errno) -> HostOffer {
    let size = try memfd.currentSize()
    try checkPages(size)
    // QEMU maps for reading and writing whatever it is asked for (11.1.3): that a guest cannot write rests on a
    // descriptor that cannot. QEMU then refuses to map it, and the guest sees an error.
    let fd = try memfd.withDescriptor { fd throws(Errno) in
      try option.isWritable ? fd.duplicate() : fd.reopen(writable: false)
    }
    let mapping = try Mapping(fd, offset: 0, length: Int(size), writable: option.isWritable)
    return HostOffer(
      id: option.id, fd, Buffer(host: mapping, backing: backing(option, memfd, size)),
      isWritable: option.isWritable, limit: option.uses)
  }

  /// How it is shown.
  private func backing(_ option: OfferOption, _ memfd: Memfd, _ size: UInt64) -> Buffer.Backing {
    if options.backing == .shadow { return .shadow(Self.chosen) }
    guard option.isWritable else {
      return .shadow(
        ShadowCause(
          .readOnly,
          "offer \(option.id) is read-only, and a dma-buf of it could be written by whoever it is shown to: it is copied"
        ))
    }
    do {
      return .lent(try udmabuf.get().create(MemfdRange(memfd: memfd, offset: 0, length: size)))
    } catch {
      return .shadow(
        ShadowCause(.udmabuf, "offer \(option.id) is no dma-buf, so that it is copied: \(error)"))
    }
  }

  private func offer(_ option: OfferOption, _ dmabuf: DMABuf) throws(Errno) -> HostOffer {
    try checkPages(dmabuf.size)
    let fd = try dmabuf.withDescriptor { fd throws(Errno) in try fd.duplicate() }
    // A dma-buf is what its maker made it, and cannot be opened anew.
    if !option.isWritable, try fd.isWritable { throw .readOnlyFileSystem }
    return HostOffer(
      id: option.id, fd,
      Buffer(
        host: try dmabuf.map(writable: option.isWritable),
        backing: options.backing == .shadow ? .shadow(Self.chosen) : .lent(dmabuf)),
      isWritable: option.isWritable, limit: option.uses)
  }

  /// A card is opened once: its own buffers are then known to it when they are shown.
  private func card(_ target: KMSTarget) throws(KMSError) -> KMSCard {
    let name = "\(KMSTarget(target.card))"
    if let card = cards.first(where: { $0.name == name }) ?? opened[name] { return card }
    let card = try KMSCard(target)
    opened[name] = card
    return card
  }

  private func checkPages(_ size: UInt64) throws(Errno) {
    if size == 0 || size % systemPageSize != 0 || size > 1 << 40 { throw .invalidArgument }
  }

  private func failure(_ option: OfferOption, _ why: String) -> Trouble {
    Trouble("--offer \(option.id): \(why)")
  }
}
