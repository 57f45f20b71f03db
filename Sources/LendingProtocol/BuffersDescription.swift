package let buffersInterfaceName = "io.udmabridge.Buffers"

/// The definition of `io.udmabridge.Buffers`, as it is in `docs`.
package let buffersDescription = """
  # The buffers that one guest lends, for any process that this socket is open to.
  #
  # A buffer is a part of the guest's memory that a program in the guest has lent. Its id is 32 hexadecimal digits and is never
  # used again. A caller sees only the buffers that it may import. For any other buffer, and for one that has ended, all methods
  # answer NoSuchBuffer.
  #
  # The limits of protection:
  # - A process that has a dma-buf of the guest's pages can read and write them. "forWriting" and "use" are agreements between
  #   lender and importer, and no protection.
  # - The dma-buf has whole pages. The bytes before "offset" and after "offset" + "size" are visible too, and may be any memory
  #   of the guest.
  # - An importer that was cut off and keeps its dma-buf keeps the pages, because the kernel takes nothing back. From then on the
  #   guest may use them for anything.
  # - The metadata are the guest's words. Check every number before you use it.
  interface io.udmabridge.Buffers

  # The layout of an image in the lent bytes: "offset" is its first pixel's, from the first lent byte on. "stride" and
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

  # The lender's description of a buffer. A new one replaces all of it.
  type Metadata (image: ?Image, values: ?[string]string)

  # An importer has written "bytesUsed" bytes from the first lent one on. "timestamp" is in nanoseconds of the importer's clock.
  type Filling (bytesUsed: int, timestamp: ?int, metadata: ?Metadata)

  # "offset" is the first lent byte's in the dma-buf, "size" is the number of lent bytes, "age" is in milliseconds, "users" is
  # the number of imports, and "fills" is the number of fills. "returns" is the time in milliseconds until the return begins or,
  # while the buffer is returning, until importers are cut off. "access" is the lender's access by the CPU. "inode" is the
  # dma-buf's, by which the host's tools show it; there is none when the buffer is over and nobody has it.
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

  # An import, and the importer's access.
  type Importer (
    process: int,
    user: int,
    forWriting: bool,
    access: ?(read, write, readWrite),
    filler: bool
  )

  # The buffers that the caller may import, the oldest first. Metadata come with Query, Import and Watch.
  method List() -> (buffers: []Buffer)

  # Begins a use of a buffer. Two descriptors come with the reply: the dma-buf at index "fileDescriptor", and the token at index
  # "token". The use lasts until Release, or until every copy of the token is closed, even after the end of this connection. So a
  # caller can pass its use on to another process with the token. When importers lose the buffer, poll reports POLLERR for the
  # token. Each import needs a Release, or the end of its token.
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

  # Tells the lender that the caller uses a buffer by the CPU, and how. The caller does not wait for the lender. If this
  # connection has several imports of the buffer, the oldest one counts, here and below. All that the imports began ends with the
  # connection.
  method BeginAccess(id: string, mode: (read, write, readWrite)) -> ()

  method EndAccess(id: string) -> ()

  # Begins to fill a buffer that was lent for that (use "fill"). There is one filler at a time. If the filler's connection or
  # import ends before Filled, the lender hears that the fill was aborted.
  method Fill(id: string) -> ()

  # Tells that the buffer is filled, with the fields of Filling.
  method Filled(id: string, bytesUsed: int, timestamp: ?int, metadata: ?Metadata) -> ()

  # Everything about a buffer; "filling" is from the last Filled. "pages" is the number of pages with lent bytes, "firstOffset" is
  # the first lent byte's in its page, and "lastLength" is the number of lent bytes in the last page. "items" is the number of
  # ranges of guest memory of which the dma-buf is made. "device" is the number of the helper's device, "resource" the guest's
  # number there. Only root and the helper's user see the importers.
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

  # Call this with "more". Tells the present buffers, and then each event:
  # - "lent": there is a buffer, or its return was cancelled; with "metadata".
  # - "metadata": the buffer has new metadata.
  # - "filled", with "filling", and the number of earlier fills that were "lost" because the caller was slow. "fillAborted".
  # - "accessBegun", with "mode", and "accessEnded": by the lender.
  # - "returning": the lender wants the buffer back; release it. "returned" and "revoked": the buffer is over; with the "reason"
  #   of a revocation.
  # - "end": the last reply.
  # "buffer" is the buffer's present state, which may be later than the event. While the caller does not read, events of one kind
  # and one buffer become one, and a buffer that comes and goes is not told. A caller that was told of a buffer is also told that
  # the buffer is over.
  method Watch() -> (
    event: (lent, metadata, filled, fillAborted, accessBegun, accessEnded, returning, returned, revoked, end),
    buffer: ?Buffer,
    metadata: ?Metadata,
    filling: ?Filling,
    lost: ?int,
    mode: ?(read, write, readWrite),
    reason: ?(resourceGone, deviceReset, sessionEnded)
  )

  # Memory of the host that the guest may map: "id" is the number by which the guest asks, "size" is in bytes. The guest may have "uses"
  # blobs of the offer at once, and has "used". "patience" is the time in milliseconds until the guest is cut off.
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

  # Offers memory to the guest: a memfd of ordinary pages that is sealed against shrinking, or a dma-buf of udmabuf or of the dma-heap
  # "system". "fileDescriptor" (0 if absent) is its index among the descriptors of the call. The guest maps all of it, and can write it.
  # "uses" (1 if absent, 224 at most) is the number of blobs of it that the guest may have at once. The guest's agent is told, with the
  # metadata. The offer lasts until Withdraw, or until this connection ends: then the guest loses the memory at once. "token" is the index
  # of a descriptor that the helper closes when the guest has nothing of the offer any more. If that is the token of an Import, it ends
  # that use.
  method Offer(fileDescriptor: ?int, token: ?int, metadata: ?Metadata, uses: ?int) -> (id: int, size: int)

  # Begins to take an offer back: the guest is told, and gets no new blobs of it. After "patience" milliseconds (1000 if absent, 3600000
  # at most) zeros take the place of what the guest still has. A second call can only shorten that time. WatchOffers tells "withdrawn"
  # when nothing of the offer is mapped or shown any more.
  method Withdraw(id: int, patience: ?int) -> ()

  # The offers of the caller's user; all of them for root and the helper's user.
  method ListOffers() -> (offers: []Offer)

  # Call this with "more". Tells the offers that ListOffers would show, and then their events: "offered", "used" when the guest has
  # another number of blobs, "withdrawing", "withdrawn", and "end", the last reply. A slow caller is told an offer's state at that time.
  method WatchOffers() -> (event: (offered, used, withdrawing, withdrawn, end), offer: ?Offer)

  # The helper has no device in which memory of the host is mapped.
  error NoSharedMemory ()

  # A guest may not have what the descriptor stands for.
  error CannotOffer (reason: string)

  # The guest's region has only "limit" bytes.
  error TooLarge (limit: int)

  # There are as many offers as there may be, of all users or of this one.
  error TooManyOffers (limit: int)

  # No offer has this number, or it is another user's.
  error NoSuchOffer ()

  # No buffer has this id, or it is over, or the caller may not import it.
  error NoSuchBuffer ()

  # The lender wants the buffer back, and nobody may begin to use it.
  error IsReturning ()

  # There are as many imports of this guest's buffers as there may be, of all users or of this one.
  error TooManyImports (limit: int)

  # This connection has not imported the buffer, or no longer has it.
  error NotImported ()

  # The buffer was not lent to be filled.
  error NotForFilling ()

  # Another importer fills the buffer.
  error FilledByAnother ()

  # This connection does not fill the buffer.
  error NotFilling ()

  # The metadata may have "limit" bytes: those of all names and texts, and 64 for an image.
  error MetadataTooLong (limit: int)

  # More than the "limit" bytes that are lent.
  error OutOfRange (limit: int)

  # There are as many calls that watch as there may be, of all users or of this one.
  error TooManyWatchers (limit: int)

  # The descriptors cannot be made now; the reason is errno's.
  error NoDescriptor (errno: int)

  """
