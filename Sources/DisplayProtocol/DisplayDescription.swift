package let displayInterfaceName = "io.udmabridge.Display"

/// The definition of `io.udmabridge.Display`, as it is in `docs`.
package let displayDescription = """
  # The pictures of one guest, for any process that this socket is open to.
  #
  # A buffer is memory for pictures: the guest's own pages (lent), or a copy (shadow). A buffer's number is never used
  # again, so a caller may keep an import under that number. A descriptor of the guest's own pages allows reading and
  # writing them for as long as it is open.
  interface io.udmabridge.Display

  # In pixels.
  type Rectangle (x: int, y: int, width: int, height: int)

  # The refresh rate is in thousandths of a hertz.
  type Mode (width: int, height: int, refresh: int)

  # The picture of a scanout. "sequence" counts the pictures of the scanout; "source" is the part of the image that is
  # shown. "size" is the buffer's, "stride" and "offset" are in bytes, "format" is "fourcc" as text, and "modifier" is
  # DRM's, 0 for rows of pixels. A dmabuf can be imported or mapped, a memfd can be mapped.
  type Frame (
    scanout: int,
    sequence: int,
    buffer: int,
    kind: (lent, shadow),
    memory: (dmabuf, memfd),
    size: int,
    width: int,
    height: int,
    format: string,
    fourcc: int,
    stride: int,
    offset: int,
    modifier: int,
    source: Rectangle
  )

  # "x" and "y" are the upper left pixel, which may lie outside the picture. "hotX" and "hotY" are the image's pixel
  # that points. "image" is another number for each image.
  type Cursor (scanout: int, visible: bool, x: int, y: int, hotX: int, hotY: int, image: int)

  # The preferred mode comes first. An output without a screen has no modes. An output without "frame" shows nothing.
  type Output (scanout: int, name: string, modes: []Mode, frame: ?Frame)

  # The scanouts of the guest, in the order of their numbers.
  method GetOutputs() -> (outputs: []Output)

  # The present picture of a scanout (the first one if none is named), with a descriptor of its buffer.
  # "fileDescriptor" is the index of that descriptor among those of the reply. "damage" is the change since the
  # picture "since", or the whole picture without "since". With "hold" the buffer is held as by Hold.
  method GetFrame(scanout: ?int, since: ?int, hold: ?bool) -> (frame: Frame, damage: Rectangle, fileDescriptor: int)

  # The image of a scanout's cursor (the first one's if none is named), 64x64 pixels AR24 with colours multiplied by
  # alpha, in a memfd; no descriptor if no cursor is visible. The frame does not contain the cursor.
  method GetCursor(scanout: ?int) -> (cursor: Cursor, fileDescriptor: ?int)

  # Memory that the helper has made for the guest to map, by its number. The descriptor allows reading and writing the
  # memory, whatever the guest may do with it.
  method GetOffer(offer: int) -> (size: int, fileDescriptor: int)

  # Keeps a buffer that is shown or held now, until Release or the end of this connection. Meanwhile the guest does
  # not get the buffer's pages back, and the fence of the next frame waits, 100 ms at most. A guest that wants its
  # pages back gets them after a second, and this connection is closed. A connection holds at most 8 buffers. Each
  # Hold needs a Release.
  method Hold(buffer: int) -> ()

  # Ends one Hold of a buffer.
  method Release(buffer: int) -> ()

  # Call it with "more". Reports the present state, and then each change: "outputs" when the outputs or their modes
  # have changed, "frame" for a picture, "off" when the scanout shows nothing, "cursor", and "end", the last reply.
  # "damage" is the change since the last picture that this call reported. "lost" is the number of pictures between
  # the two, which a slow caller misses. The replies have no descriptors: call GetFrame on another connection for new
  # buffers.
  method Watch() -> (
    event: (outputs, frame, off, cursor, end),
    outputs: ?[]Output,
    scanout: ?int,
    frame: ?Frame,
    damage: ?Rectangle,
    lost: ?int,
    cursor: ?Cursor
  )

  # Call it with "upgrade". After the reply this connection speaks the protocol of the display socket that QEMU hands
  # to a vhost-user-gpu (docs/interop/vhost-user-gpu.rst of QEMU). The caller is the front end. It receives
  # DMABUF_SCANOUT2 or DMABUF_SCANOUT with a descriptor for each buffer, DMABUF_UPDATE for each picture, SCANOUT and
  # UPDATE with pixels for a memfd, and the cursor. A buffer is held as by Hold until the caller answers its
  # DMABUF_UPDATE. Only then does the next one come. A scanout shows nothing if its image does not begin with its
  # buffer, or if its pixels in a memfd are neither XR24 nor AR24.
  method Stream() -> ()

  # The counts since the start: "device" as in the helper's file of statistics, "control" for this socket. Root and
  # the helper's own user also get "lending" in "device". The device's other numbers count lent buffers too.
  method Statistics() -> (
    device: object,
    control: (
      frames: int,
      events: int,
      lost: int,
      holds: int,
      watchers: int,
      overdue: int,
      cutOff: int,
      connections: int,
      refused: int
    )
  )

  # Scanouts are numbered from 0 on; GetOutputs names them.
  error NoSuchScanout (scanout: int)

  # The scanout shows nothing now.
  error NoFrame (scanout: int)

  # The buffer is neither shown nor held now; to be released, it must be held by this connection.
  error NoSuchBuffer (buffer: int)

  # This connection already holds the largest number of buffers.
  error TooManyHolds (limit: int)

  # The calls of Watch and Stream have reached their limit, in all or for this user.
  error TooManyWatchers (limit: int)

  # The helper has made no memory with this number.
  error NoSuchOffer (offer: int)

  # The descriptor cannot be made now; the reason is errno's.
  error NoDescriptor (errno: int)

  """
