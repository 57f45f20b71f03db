package let buffersInterfaceName = "io.udmabridge.Buffers"

/// The definition of `io.udmabridge.Buffers`, as it is in `docs`.
package let buffersDescription = """
  # The buffers that one guest lends, for any process that this socket is open to.
  #
  # A buffer is a part of the guest's memory for which a program in the guest said "lend". Its id is 32 hexadecimal digits and
  # is never used again. A caller sees only the buffers that it may import: of another one, as of one that has ended, all
  # methods say NoSuchBuffer.
  #
  # What protects, and what does not:
  # - A dma-buf of the guest's pages can be read and written by whoever has it. "forWriting" and "use" are agreements
  #   between lender and importer, and no protection.
  # - The dma-buf has whole pages: what lies before "offset" and after "offset" + "size" is visible too, and it may be any
  #   memory of the guest's.
  # - An importer that was cut off and keeps its dma-buf keeps the pages: the kernel takes nothing back. They may be anything
  #   of the guest's from then on.
  # - The metadata are the guest's words. Check every number before you use it.
  interface io.udmabridge.Buffers

  # How an image lies in the lent bytes: "offset" is that of its first pixel from the first lent byte on. "stride" and
  # "offset" are in bytes, "fourcc" and "modifier" are DRM's, "timestamp" is in nanoseconds of a clock that the lender chose.
  type Image (
    width: int,
    height: int,
    fourcc: int,
    stride: int,
    offset: int,
    modifier: int,
    colorSpace: ?string,
    timestamp: ?int
  )

  # What the lender says of a buffer; it is replaced as a whole.
  type Metadata (image: ?Image, values: ?[string]string)

  # What an importer has written: so many bytes from the first lent one on, at a time in nanoseconds of its own clock.
  type Filling (bytesUsed: int, timestamp: ?int, metadata: ?Metadata)

  # "offset" is that of the first lent byte in the dma-buf, "size" is how many are lent, "age" is in milliseconds, "users" is
  # the number of imports, and "fills" says how often it was filled. "returns" is the time in milliseconds until the return
  # begins, or, while it is returning, until importers are cut off. "access" is what the lender does with it by the CPU.
  # "inode" is the dma-buf's, by which the host's tools show it; there is none when the buffer is over and nobody has it.
  type Buffer (
    id: string,
    state: (lent, returning, returned, revoked),
    use: (read, write, fill),
    offset: int,
    size: int,
    age: int,
    inode: ?int,
    users: int,
    fills: int,
    returns: ?int,
    access: ?(read, write, readWrite)
  )

  # An import, and what is done with it.
  type Importer (
    process: int,
    user: int,
    forWriting: bool,
    access: ?(read, write, readWrite),
    filler: bool
  )

  # The buffers that the caller may import, the oldest first. Metadata come with Query, Import and Watch.
  method List() -> (buffers: []Buffer)

  # Begins a use of a buffer. Two descriptors come with the reply, at these indices: the dma-buf, and the token. The use
  # lasts until Release, or until every copy of the token is closed, whether this connection is open or not; so a caller can
  # hand its use on to another process, with the token. When the buffer is taken from its importers, poll says POLLERR of
  # the token. Each import needs a Release, or the end of its token.
  method Import(id: string, forWriting: ?bool) -> (
    buffer: Buffer,
    offset: int,
    size: int,
    metadata: Metadata,
    fileDescriptor: int,
    token: int
  )

  # Ends the newest import of this buffer by this connection.
  method Release(id: string) -> ()

  # Tells the lender what the caller does with a buffer by the CPU. Nobody waits for it. Of several imports of one buffer by
  # this connection, here and below the oldest one counts; all that they began ends with the connection.
  method BeginAccess(id: string, mode: (read, write, readWrite)) -> ()

  method EndAccess(id: string) -> ()

  # Begins to fill a buffer that was lent for that (use "fill"). There is one filler at a time. If its connection or its
  # import ends before Filled, the lender hears that it was aborted.
  method Fill(id: string) -> ()

  # Says that the buffer is filled, and what Filling says.
  method Filled(id: string, bytesUsed: int, timestamp: ?int, metadata: ?Metadata) -> ()

  # All that there is to know about a buffer, and what the last Filled said. The lent bytes lie in so many "pages":
  # "firstOffset" is that of the first byte in its page, and "lastLength" is how many bytes of the last page are lent. The
  # dma-buf is made of so many ranges of guest memory ("items"). "device" is the number of the helper's device, "resource"
  # the guest's number there. The importers are shown only to root and to the helper's user.
  method Query(id: string) -> (
    buffer: Buffer,
    metadata: Metadata,
    filling: ?Filling,
    pages: int,
    items: int,
    firstOffset: int,
    lastLength: int,
    device: int,
    resource: int,
    importers: ?[]Importer
  )

  # Call it with "more". Tells what there is, and then what happens:
  # - "lent": there is a buffer, or its return was cancelled; with "metadata".
  # - "metadata": they are others now.
  # - "filled", with "filling", and how many fills were "lost" before it because the caller was slow. "fillAborted".
  # - "accessBegun", with "mode", and "accessEnded": by the lender.
  # - "returning": the lender wants it back; let go of it. "returned" and "revoked": it is over; with the "reason" of a
  #   revocation.
  # - "end": the last reply.
  # "buffer" is what it is now, which may be later than the event. What happens to one buffer while the caller does not read
  # is told once for each kind of event; a buffer that came and went meanwhile is not told. That a buffer is over is told to
  # whoever was told of it.
  method Watch() -> (
    event: (lent, metadata, filled, fillAborted, accessBegun, accessEnded, returning, returned, revoked, end),
    buffer: ?Buffer,
    metadata: ?Metadata,
    filling: ?Filling,
    lost: ?int,
    mode: ?(read, write, readWrite),
    reason: ?(resourceGone, deviceReset, sessionEnded)
  )

  # Memory of the host that the guest may map: "id" is the number by which it asks, "size" is in bytes. The guest may have "uses" blobs of
  # it at once, and has "used". "patience" is the time in milliseconds until it is cut off.
  type Offer (
    id: int,
    state: (offered, withdrawing, withdrawn),
    size: int,
    writable: bool,
    uses: int,
    used: int,
    patience: ?int,
    metadata: Metadata
  )

  # Offers memory to the guest: a memfd that is sealed against shrinking, of ordinary pages, or a dma-buf of udmabuf or of the dma-heap "system";
  # the descriptor of this index among those that come with the call, the first one if none is named. It is mapped whole, and the guest
  # can write it. "uses" (1 if absent, 224 at most) is how many blobs of it the guest may have at once. The guest's agent is told, with the
  # metadata. The offer lasts until Withdraw, or until this connection ends: then what the guest has is taken away at once. "token" is
  # the index of a descriptor that is closed when the guest has nothing of it any more: with the token of an Import it ends that use.
  method Offer(fileDescriptor: ?int, token: ?int, metadata: ?Metadata, uses: ?int) -> (id: int, size: int)

  # Begins to take an offer back: the guest gets no new blobs of it, and is told. After "patience" milliseconds (1000 if absent, 3600000 at
  # most) what it still has is taken away: zeros are mapped in its place. A second call can only shorten that. WatchOffers tells of
  # "withdrawn", when nothing of it is mapped or shown any more.
  method Withdraw(id: int, patience: ?int) -> ()

  # The offers of the caller's user; all of them for root and the helper's user.
  method ListOffers() -> (offers: []Offer)

  # Call it with "more". Tells what there is, and then what happens to the offers that ListOffers would show: "offered", "used" when the
  # guest has another number of blobs, "withdrawing", "withdrawn", and "end", which is the last reply. What a slow caller was not told yet
  # is told as it is then.
  method WatchOffers() -> (event: (offered, used, withdrawing, withdrawn, end), offer: ?Offer)

  # The helper has no device in which memory of the host is mapped.
  error NoSharedMemory ()

  # What the descriptor is of is nothing that a guest may have.
  error CannotOffer (reason: string)

  # The guest's region has only so many bytes.
  error TooLarge (limit: int)

  # There are as many offers as there may be, or as many of this user's.
  error TooManyOffers (limit: int)

  # There is none of this number, or it is another user's.
  error NoSuchOffer ()

  # There is none of this id, or it is over, or the caller may not import it.
  error NoSuchBuffer ()

  # The lender wants it back, so that nobody may begin to use it.
  error IsReturning ()

  # There are as many imports of this guest's buffers as there may be, or as many of this user's.
  error TooManyImports (limit: int)

  # This connection has not imported it, or no longer.
  error NotImported ()

  # It was not lent to be filled.
  error NotForFilling ()

  # Another importer fills it.
  error FilledByAnother ()

  # This connection does not fill it.
  error NotFilling ()

  # The metadata may have so many bytes: of all names and texts, and 64 for an image.
  error MetadataTooLong (limit: int)

  # More bytes than are lent.
  error OutOfRange (limit: int)

  # There are as many calls that watch as there may be, or as many of this user's.
  error TooManyWatchers (limit: int)

  # The descriptors cannot be made now; the reason is errno's.
  error NoDescriptor (errno: int)

  """
