#!/usr/bin/env python3
"""Fills a buffer that a guest lends with a frame of a V4L2 device of the host, which writes it into the guest's own pages.

    camera.py CONTROL-SOCKET ID [DEVICE]

In the guest: udmabridge-guest lend --size 4M --use fill --metadata '{"image": {...}}'. The image is XR24, and begins with the buffer. The
device imports the guest's dma-buf (V4L2_MEMORY_DMABUF), so that nothing is copied. Only Python's own library is used.
"""
import fcntl
import json
import os
import socket
import struct
import sys

CAPTURE, DMABUF, XR24 = 1, 4, 0x34325258
S_FMT, REQBUFS, QBUF, DQBUF, STREAMON = 0xC0D05605, 0xC0145608, 0xC058560F, 0xC0585611, 0x40045612


class Buffers:
    """A connection to io.udmabridge.Buffers: varlink messages are JSON objects with a NUL behind each."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def call(self, method, **parameters):
        """The parameters of the reply, and the descriptors that came with it."""
        call = {"method": f"io.udmabridge.Buffers.{method}", "parameters": parameters}
        self.socket.sendall(json.dumps(call).encode() + b"\0")
        reply, descriptors = b"", []
        while not reply.endswith(b"\0"):
            data, passed, _, _ = socket.recv_fds(self.socket, 1 << 16, 2)
            reply += data or sys.exit("the helper is gone")
            descriptors += passed
        reply = json.loads(reply[:-1])
        if "error" in reply:
            sys.exit(f"{reply['error']}: {reply.get('parameters')}")
        return reply["parameters"], descriptors


def capture(device, dmabuf, size, image):
    """A frame of the device in the dma-buf: how many bytes it has, and when it was taken, in nanoseconds."""
    camera = os.open(device, os.O_RDWR)
    layout = bytearray(208)
    struct.pack_into("<II6I", layout, 0, CAPTURE, 0, image["width"], image["height"], XR24, 1, image["stride"], 0)
    fcntl.ioctl(camera, S_FMT, layout)
    width, height, fourcc, _, stride, length = struct.unpack_from("<6I", layout, 8)
    if (width, height, fourcc, stride) != (image["width"], image["height"], XR24, image["stride"]) or length > size:
        sys.exit(f"{device} makes {width}x{height} with rows of {stride} bytes and {length} bytes together")
    fcntl.ioctl(camera, REQBUFS, bytearray(struct.pack("<5I", 1, CAPTURE, DMABUF, 0, 0)))
    buffer = bytearray(88)
    struct.pack_into("<II", buffer, 0, 0, CAPTURE)
    struct.pack_into("<IiII", buffer, 60, DMABUF, dmabuf, 0, size)
    fcntl.ioctl(camera, QBUF, buffer)
    fcntl.ioctl(camera, STREAMON, struct.pack("<i", CAPTURE))
    fcntl.ioctl(camera, DQBUF, buffer)
    seconds, microseconds = struct.unpack_from("<qq", buffer, 24)
    os.close(camera)
    return struct.unpack_from("<I", buffer, 8)[0], seconds * 10**9 + microseconds * 1000


def main(control, buffer, device="/dev/video0"):
    buffers = Buffers(control)
    lent, (dmabuf, _token) = buffers.call("Import", id=buffer, forWriting=True)
    image = lent["metadata"].get("image") or sys.exit("the lender does not say how the image lies in the buffer")
    if lent["offset"] or image["offset"] or image["fourcc"] != XR24:
        sys.exit("the image is to be XR24, and to begin with the buffer")
    buffers.call("Fill", id=buffer)
    count, time = capture(device, dmabuf, os.lseek(dmabuf, 0, os.SEEK_END), image)
    buffers.call("Filled", id=buffer, bytesUsed=count, timestamp=time)
    print("filled", count)


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
