package let displayInterfaceName = "io.udmabridge.Display"

/// The definition of `io.udmabridge.Display`, as it is in `docs`.
package let displayDescription = """
  # The pictures of one guest, for any process that this socket is open to.
  #
  # A buffer is memory in which pictures appear: the guest's own pages (lent), or a copy (shadow). Its number is never
  # used again, so a caller may keep its import under that number. With a descriptor of the guest's own pages a process can
  # read and write them as long as the descriptor is open.
  interface io.udmabridge.Display

  # In pixels.
  type Rectangle (x: int, y: int, width: int, height: int)

  # The refresh rate is in thousandths of a hertz.
  type Mode (width: int, height: int, refresh: int)

  # A picture that a scanout shows. "sequence" counts the pictures of the scanout; "source" is the part of the image that
  # is shown. "size" is the buffer's, "stride" and "offset" are in bytes, "format" is "fourcc" as text, and "modifier" is
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

  # "x" and "y" are the place of the upper left pixel, which may lie outside the picture. "hotX" and "hotY" name the pixel
  # of the image that points. Each image has a number of its own, "image".
  type Cursor (scanout: int, visible: bool, x: int, y: int, hotX: int, hotY: int, image: int)

  # The preferred mode comes first. There is no mode if no screen is plugged in, and no frame if nothing is shown.
  type Output (scanout: int, name: string, modes: []Mode, frame: ?Frame)

  # The scanouts of the guest, in the order of their numbers.
  method GetOutputs() -> (outputs: []Output)

  # The frame that a scanout (the first one if none is named) shows now. "fileDescriptor" is the index of its buffer's
  # descriptor among those that come with the reply. "damage" is the part that has changed since the picture "since",
  # everything if none is named. With "hold" the buffer is held as by Hold.
  method GetFrame(scanout: ?int, since: ?int, hold: ?bool) -> (frame: Frame, damage: Rectangle, fileDescriptor: int)

  # The image of a scanout's cursor (the first one's if none is named) in a memfd: 64x64 pixels AR24, premultiplied by
  # alpha. There is no descriptor if no cursor is visible. The frame does not contain the cursor.
  method GetCursor(scanout: ?int) -> (cursor: Cursor, fileDescriptor: ?int)

  # The memory of this number, which the helper has made for the guest to map. The caller can read and write it by the
  # descriptor, whatever the guest may do with it.
  method GetOffer(offer: int) -> (size: int, fileDescriptor: int)

  # Keeps a buffer that is shown or held now, until Release or the end of this connection. Meanwhile the guest does not get
  # its pages back, and the fence of the next frame waits, 100 ms at most. After a second, a guest that wants its pages
  # back gets them, and the helper closes this connection. A connection holds 8 buffers at most; each Hold needs a Release.
  method Hold(buffer: int) -> ()

  # Ends one Hold of a buffer.
  method Release(buffer: int) -> ()

  # Call this with "more". Tells the present state, and then each change: "outputs" when these have changed, "frame" for a
  # picture, with its "damage" since the last one that this call told and the number that were "lost" between them because
  # the caller was slow; "off" when the scanout shows nothing, "cursor", and "end", the last reply. No descriptors come with
  # the replies: ask GetFrame on another connection for buffers that are new.
  method Watch() -> (
    event: (outputs, frame, off, cursor, end),
    outputs: ?[]Output,
    scanout: ?int,
    frame: ?Frame,
    damage: ?Rectangle,
    lost: ?int,
    cursor: ?Cursor
  )

  # Call this with "upgrade". After the reply this connection speaks the protocol of the display socket that QEMU passes to
  # a vhost-user-gpu (docs/interop/vhost-user-gpu.rst of QEMU). The caller is the front end. It gets DMABUF_SCANOUT2 or
  # DMABUF_SCANOUT with a descriptor for each buffer, DMABUF_UPDATE for each picture, SCANOUT and UPDATE with pixels for a
  # memfd, and the cursor. A buffer is held as by Hold until the caller answers its DMABUF_UPDATE; the next DMABUF_UPDATE
  # comes only after that. A scanout shows nothing if its image does not begin with its buffer, or if its pixels are in a
  # memfd and neither XR24 nor AR24.
  method Stream() -> ()

  # Statistics since the start: "device" as in the helper's file of statistics, "control" about this socket.
  # Root and the helper's own user also get "lending" in "device". The device's other numbers count lent buffers too.
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

  # The buffer is neither shown nor held now. For Release, this connection must hold it.
  error NoSuchBuffer (buffer: int)

  # This connection holds as many buffers as it may.
  error TooManyHolds (limit: int)

  # There are as many calls of Watch and Stream as there may be, of all users or of this one.
  error TooManyWatchers (limit: int)

  # The helper has made no memory of this number.
  error NoSuchOffer (offer: int)

  # The descriptor cannot be made now; the reason is errno's.
  error NoDescriptor (errno: int)

  """
