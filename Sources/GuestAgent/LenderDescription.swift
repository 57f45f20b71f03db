/// The definition of `io.udmabridge.Lender`. docs/io.udmabridge.Lender.varlink is a copy of it.
let lenderDescription = """
  # Lends buffers of this guest to its host.
  #
  # A buffer is a dma-buf that the card has made (Make). If the guest's kernel and the device can do that, it may be any other one,
  # such as of a dma-heap, a camera or a udmabuf. The host gets the buffer's own pages. It sees whole pages, whatever offset and size
  # say, and can write them, whatever "use" says.
  #
  # When a connection ends, its buffers are returned. Other connections of the same user, and root's, may name its buffers too.
  interface io.udmabridge.Lender

  # The layout of an image in a buffer: "stride" and "offset" in bytes, "offset" from the lent range's start on, "fourcc" and "modifier"
  # as DRM has them, "timestamp" in nanoseconds of a clock that the lender chooses.
  type Image (
    width: int,
    height: int,
    fourcc: int,
    stride: int,
    offset: ?int,
    modifier: ?int,
    colorSpace: ?string,
    timestamp: ?int
  )

  # The lender's description of a buffer, for its importers. A new one replaces all of it.
  type Metadata (image: ?Image, values: ?[string]string)

  # A buffer that process "pid" of "user" lends. A "waiting" buffer was lent to a card that is gone; the next card gets it, under
  # another id. "importers" is the number of importers of the host. "copied" says that the card could not take the lender's dma-buf.
  type Buffer (
    buffer: string,
    state: (lent, returning, waiting),
    offset: int,
    size: int,
    use: (read, write, fill),
    to: ?[]string,
    metadata: ?Metadata,
    importers: int,
    copied: bool,
    pid: int,
    user: int
  )

  # Makes a buffer of the card, of "size" bytes or somewhat more, full of zeros. "fileDescriptor" is the index of its dma-buf among the
  # descriptors that come with the reply. Nothing is lent yet, and the agent keeps nothing of the buffer.
  method Make(size: int) -> (fileDescriptor: int, size: int)

  # Lends "size" bytes of a dma-buf from "offset" on, all of it if neither is given. "fileDescriptor" is its index among the descriptors
  # of the call, the first one if absent. "to" names audiences of the host, at most 16 of those that List tells; without "to", the buffer
  # is for anyone whom the host admits. With "copy" the content is copied once if the card cannot take the dma-buf itself. The same
  # connection may lend the same bytes of a dma-buf again, for the same use and audiences: that cancels a return, and replaces the
  # metadata.
  method Lend(
    fileDescriptor: ?int,
    offset: ?int,
    size: ?int,
    metadata: ?Metadata,
    to: ?[]string,
    use: ?(read, write, fill),
    copy: ?bool
  ) -> (buffer: string, copied: bool)

  # Replaces the metadata of a buffer. Importers are told.
  method SetMetadata(buffer: string, metadata: Metadata) -> ()

  # Begins to take a buffer back, after "delay" milliseconds (0 if absent, 86400000 at most). Watch tells "returned" when the last
  # importer has released the buffer, or "patience" milliseconds later (1000 if absent, 3600000 at most).
  method Return(buffer: string, delay: ?int, patience: ?int) -> ()

  # Tells importers that the CPU begins to use a buffer, and that it has ended. The agent does not wait for them.
  method BeginAccess(buffer: string, mode: (read, write, readWrite)) -> ()

  method EndAccess(buffer: string) -> ()

  # Memory of the host that this guest may have: "size" is in bytes. While an offer is "withdrawing", the host wants its memory back.
  type Offer (offer: int, size: int, writable: bool, metadata: Metadata, withdrawing: bool)

  # The present offers of the host.
  method Offers() -> (offers: []Offer)

  # Takes an offer of the host, by its number or by a name and a value of its metadata; of several the newest. "fileDescriptor" is the
  # index of a dma-buf of this guest, whose bytes are the host's own. The memory is the caller's as long as anybody has the dma-buf. When
  # the host takes the memory back, zeros are in its place.
  method Receive(offer: ?int, name: ?string, value: ?string) -> (fileDescriptor: int, offer: Offer)

  # The buffers of the caller's user, or of all users for root. "connected" says whether a helper of the host answers, "audiences" are
  # those that the helper knows, and "copies" counts the buffers that were copied since the agent started.
  method List() -> (connected: bool, cards: int, audiences: []string, copies: int, buffers: []Buffer)

  # Call this with "more". Tells "ready" at once, and then the events of the buffers that List would show. "lent": also for a buffer that
  # waited for a card, with the id that it had "before". "importers": there are "count" now. "accessBegun", "accessEnded": an
  # importer uses the buffer. "filled": an importer has written "bytesUsed" bytes; "lostFills" is the number of earlier fills that were
  # not told. "returned": "cutOff" importers were cut off, and "reading" says that a device of the host still reads. "revoked": the host
  # has lost the buffer, for a "reason". "offered": there is memory of the host, of "size" bytes, with its metadata. "withdrawing": the
  # host takes the offer back after "patience" milliseconds. "withdrawn": the offer is over. "connected", "disconnected": a helper
  # answers, or none any more. "lost": the number of events before this one that were left out because the caller was slow.
  method Watch() -> (
    event: (
      ready, connected, disconnected, lent, importers, accessBegun, accessEnded, filled, fillAborted, returning, returned, revoked,
      offered, withdrawing, withdrawn
    ),
    buffer: ?string,
    offer: ?int,
    size: ?int,
    writable: ?bool,
    patience: ?int,
    before: ?string,
    count: ?int,
    bytesUsed: ?int,
    timestamp: ?int,
    metadata: ?Metadata,
    lostFills: ?int,
    cutOff: ?int,
    reading: ?bool,
    mode: ?(read, write, readWrite),
    reason: ?string,
    lost: ?int
  )

  # The host does not offer this, or no longer.
  error NoSuchOffer (reason: string)

  # The host does not map the offer.
  error CannotReceive (reason: string)

  # No helper of the host answers.
  error NotConnected (reason: string)

  # There is no card that the helper serves.
  error NoCard (reason: string)

  # The card cannot make a buffer of that size.
  error CannotMake (reason: string)

  # The descriptor is missing, is not the only one, or is no dma-buf.
  error NoDMABuf (reason: string)

  # The card cannot take the dma-buf. The reason names the guest's kernel if that is the cause.
  error CannotImport (reason: string)

  # Offset and size do not lie in the buffer.
  error OutOfRange (reason: string)

  # The user lends no such buffer, or no longer.
  error NoSuchBuffer (reason: string)

  # Another connection lends the buffer.
  error AlreadyLent (reason: string)

  # The host defines no such audience.
  error NoSuchAudience (reason: string)

  # The host takes no more buffers of this guest.
  error TooManyBuffers (reason: string)

  # The metadata are longer than the host takes.
  error MetadataTooLong (reason: string)

  # The host could only copy the pages, and lends no copies.
  error NotLent (reason: string)

  # The buffer is memory of the host.
  error MemoryOfHost (reason: string)

  # The helper refuses the call for another reason.
  error Refused (reason: string)

  """
