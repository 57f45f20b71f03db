package let displayInterfaceName = "io.udmabridge.Display"

/// The definition of `io.udmabridge.Display`, as it is in `docs`.
package let displayDescription = """
  # The pictures of one guest, for any process that this socket is open to.
  #
  # A buffer is memory in which pictures appear: the guest's own pages (lent), or a copy (shadow). Its number is never
  # used again, so a caller may keep what it has imported under it. A descriptor of the guest's own pages allows to read
  # and to write them for as long as it is open.
  interface io.udmabridge.Display

  # In pixels.
  type Rectangle (x: int, y: int, width: int, height: int)

  # The refresh rate is in thousandths of a hertz.
  type Mode (width: int, height: int, refresh: int)

  # What a scanout shows. "sequence" counts the pictures of the scanout; "source" is the part of the image that is
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

  # The upper left pixel, which may lie outside the picture, and the one of the image that points. "image" is another
  # number for each image.
  type Cursor (scanout: int, visible: bool, x: int, y: int, hotX: int, hotY: int, image: int)

  # The preferred mode comes first; there is none where no screen is plugged in. No frame is shown where none is given.
  type Output (scanout: int, name: string, modes: []Mode, frame: ?Frame)

  # The scanouts of the guest, in the order of their numbers.
  method GetOutputs() -> (outputs: []Output)

  # What a scanout shows now (the first one if none is named), with a descriptor of its buffer: the one of this index
  # among those that come with the reply. "damage" is what has changed since the picture "since", everything if none is
  # named. With "hold" the buffer is held as by Hold.
  method GetFrame(scanout: ?int, since: ?int, hold: ?bool) -> (frame: Frame, damage: Rectangle, fileDescriptor: int)

  # The image of a scanout's cursor (the first one's if none is named), 64x64 pixels AR24 with colours multiplied by
  # alpha, in a memfd; no descriptor where none is visible. It is not in the frame.
  method GetCursor(scanout: ?int) -> (cursor: Cursor, fileDescriptor: ?int)

  # Memory that the helper has made for the guest to map, by its number, with a descriptor by which it can be read and
  # written, whatever the guest may do with it.
  method GetOffer(offer: int) -> (size: int, fileDescriptor: int)

  # Keeps a buffer that is shown now, or held, until Release or the end of this connection: the guest does not get its
  # pages back, and the fence of the frame after it waits, 100 ms at most. After a second, a guest that wants its pages
  # back gets them, and this connection is closed. A connection holds 8 buffers at most; each Hold needs a Release.
  method Hold(buffer: int) -> ()

  # Lets a buffer go.
  method Release(buffer: int) -> ()

  # Call it with "more". Tells what there is, and then each change: "outputs" when what can be shown has changed, "frame"
  # for a picture, with what has changed since the last one that this call told of and how many were "lost" between them
  # because the caller was slow; "off" when the scanout shows nothing, "cursor", and "end", the last reply. No
  # descriptors come with it: ask GetFrame on another connection for buffers that are new.
  method Watch() -> (
    event: (outputs, frame, off, cursor, end),
    outputs: ?[]Output,
    scanout: ?int,
    frame: ?Frame,
    damage: ?Rectangle,
    lost: ?int,
    cursor: ?Cursor
  )

  # Call it with "upgrade". After the reply this connection speaks the protocol of the display socket that QEMU hands to
  # a vhost-user-gpu (docs/interop/vhost-user-gpu.rst of QEMU), in which the caller is the front end: it is sent
  # DMABUF_SCANOUT2 or DMABUF_SCANOUT with a descriptor for each buffer, DMABUF_UPDATE for each picture, SCANOUT and UPDATE
  # with pixels for a memfd, and the cursor. A buffer is held as by Hold until its DMABUF_UPDATE is answered, before which
  # the next one does not come. A scanout whose image does not begin with its buffer, or whose pixels in a memfd are
  # neither XR24 nor AR24, shows nothing.
  method Stream() -> ()

  # What happened since the start: "device" as in the helper's file of statistics, "control" about this socket.
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

  # The buffer is neither shown nor held now; to be released, it must be held by this connection.
  error NoSuchBuffer (buffer: int)

  # This connection holds as many buffers as it may.
  error TooManyHolds (limit: int)

  # There are as many calls of Watch and Stream as there may be, or as many of this user's.
  error TooManyWatchers (limit: int)

  # The helper has made no memory of this number.
  error NoSuchOffer (offer: int)

  # The descriptor cannot be made now; the reason is errno's.
  error NoDescriptor (errno: int)

  """
