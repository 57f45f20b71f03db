/// The definition of `io.udmabridge.Lender`. docs/io.udmabridge.Lender.varlink is a copy of it.
let lenderDescription = """
  # Lends buffers of this guest to its host.
  #
  # A buffer is a dma-buf: one that the card has made (Make), or, where the guest's kernel and the device can, any other one, as of
  # a dma-heap, a camera or a udmabuf. The host gets the buffer's own pages. Whole pages are visible there, whatever offset
  # and size say, and they can be written there, whatever "use" says.
  #
  # What a connection lends is returned when the connection ends. Other connections of the same user, and root's, may name
  # its buffers too.
  interface io.udmabridge.Lender

  # How an image lies in a buffer: "stride" and "offset" in bytes, "offset" from the lent range's start on, "fourcc" and "modifier" as
  # DRM has them, "timestamp" in nanoseconds of a clock that the lender chooses.
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

  # What a lender says of a buffer, for whoever imports it. It is replaced as a whole.
  type Metadata (image: ?Image, values: ?[string]string)

  # A buffer that is lent by process "pid" of "user". One that is "waiting" was lent to a card that is gone: the next card gets it, and
  # it has another id then. "importers" of the host have it now. It is "copied" if the card could not take the lender's dma-buf.
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

  # Makes a buffer of the card, of "size" bytes or somewhat more, full of zeros; its dma-buf is the descriptor of this index among those
  # that come with the reply. Nothing is lent yet, and the agent keeps nothing of it.
  method Make(size: int) -> (fileDescriptor: int, size: int)

  # Lends a dma-buf: the descriptor of this index among those that come with the call, the first one if none is named. "size" bytes from
  # "offset" on, all that is there if neither is given. "to" names audiences of the host (List tells which there are), at most 16;
  # anyone whom the host admits if none is given. With "copy" the content is copied once where the card cannot take the
  # dma-buf itself. The same connection may lend the same bytes of a dma-buf again, for the same use and audiences: that cancels
  # a return, and replaces the metadata.
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

  # Begins to take a buffer back, after "delay" milliseconds (0 if absent, 86400000 at most). Watch tells of "returned", when the last
  # importer has let go, or "patience" milliseconds later (1000 if absent, 3600000 at most).
  method Return(buffer: string, delay: ?int, patience: ?int) -> ()

  # Tells importers that the processor begins to use a buffer, and that it has ended. Nobody waits for them.
  method BeginAccess(buffer: string, mode: (read, write, readWrite)) -> ()

  method EndAccess(buffer: string) -> ()

  # Memory of the host that this guest may have: "size" is in bytes, and the host wants it back while it is "withdrawing".
  type Offer (offer: int, size: int, writable: bool, metadata: Metadata, withdrawing: bool)

  # What the host offers now.
  method Offers() -> (offers: []Offer)

  # Takes what the host offers, by its number or by a name and a value of its metadata; of several the newest. The descriptor of this index is
  # a dma-buf of this guest's, whose bytes are the host's own. It is the caller's as long as anybody has it. When the host takes the
  # memory back, zeros are in its place.
  method Receive(offer: ?int, name: ?string, value: ?string) -> (fileDescriptor: int, offer: Offer)

  # What the caller's user lends, or all users for root: "connected" says whether a helper of the host answers, "audiences" are those that it
  # knows, and "copies" counts the buffers that were copied since the agent started.
  method List() -> (connected: bool, cards: int, audiences: []string, copies: int, buffers: []Buffer)

  # Call it with "more". Tells "ready" at once, and then what happens to the buffers that List would show. "lent": also of a buffer that
  # waited for a card, with the id that it had "before". "importers": there are "count" now. "accessBegun", "accessEnded": an
  # importer uses the buffer. "filled": an importer has written "bytesUsed" bytes; "lostFills" before were not told.
  # "returned": "cutOff" importers were not waited for, "reading" says that a device of the host still reads. "revoked": the host
  # has lost the buffer, for a "reason". "offered": there is memory of the host, of "size" bytes, with its metadata. "withdrawing": the host
  # takes it back after "patience" milliseconds. "withdrawn": it is over. "connected", "disconnected": a helper answers, or none any more. "lost": so many events
  # before this one were left out because the caller was slow.
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

  # The host offers nothing of this, or no longer.
  error NoSuchOffer (reason: string)

  # The host does not map it.
  error CannotReceive (reason: string)

  # No helper of the host answers.
  error NotConnected (reason: string)

  # There is no card that the helper serves.
  error NoCard (reason: string)

  # The card cannot make a buffer of that size.
  error CannotMake (reason: string)

  # The descriptor is missing, is not the only one, or is no dma-buf.
  error NoDMABuf (reason: string)

  # The card cannot take the dma-buf: the reason names the guest's kernel, if it is the kernel that cannot.
  error CannotImport (reason: string)

  # Offset and size do not lie in the buffer.
  error OutOfRange (reason: string)

  # The user lends no such buffer, or no longer.
  error NoSuchBuffer (reason: string)

  # Another connection lends it.
  error AlreadyLent (reason: string)

  # The host defines no such audience.
  error NoSuchAudience (reason: string)

  # The host takes no more buffers of this guest.
  error TooManyBuffers (reason: string)

  # The host takes less metadata.
  error MetadataTooLong (reason: string)

  # The host could only copy the pages, and lends no copies.
  error NotLent (reason: string)

  # The buffer is memory of the host.
  error MemoryOfHost (reason: string)

  # The helper refuses it for another reason.
  error Refused (reason: string)

  """
