#!/usr/bin/env python3
"""Offers frames of the host to a guest: a memfd with the newest one, for as long as frames come on standard input.

    decoder ... | offer.py CONTROL-SOCKET WIDTH HEIGHT [NAME]

In the guest: udmabridge-guest receive --metadata name=NAME -- PROGRAM {}. The frames are XR24 of WIDTH x HEIGHT, one behind the other. The
first page of the memory holds the number of the newest frame as 64 bits, least first, which becomes odd while a frame is written; the
frame lies in the pages behind it. Only Python's own library is used.
"""
import fcntl
import json
import mmap
import os
import socket
import struct
import sys

PAGE = 4096


class Buffers:
    """A connection to io.udmabridge.Buffers: varlink messages are JSON objects with a NUL behind each."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def call(self, method, parameters, descriptors=()):
        call = {"method": f"io.udmabridge.Buffers.{method}", "parameters": parameters}
        socket.send_fds(self.socket, [json.dumps(call).encode() + b"\0"], descriptors)
        reply = b""
        while not reply.endswith(b"\0"):
            reply += self.socket.recv(1 << 16) or sys.exit("the helper is gone")
        reply = json.loads(reply[:-1])
        if "error" in reply:
            sys.exit(f"{reply['error']}: {reply.get('parameters')}")
        return reply["parameters"]


def main(control, width, height, name="frames"):
    width, height = int(width), int(height)
    size = width * height * 4
    memory = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, PAGE + (size + PAGE - 1) // PAGE * PAGE)
    # A memory that can become shorter would end whoever reads it.
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    image = {"width": width, "height": height, "fourcc": 0x34325258, "stride": width * 4, "offset": PAGE}
    buffers = Buffers(control)
    offer = buffers.call("Offer", {"metadata": {"image": image, "values": {"name": name}}}, [memory])
    print("offer", offer["id"], flush=True)
    pages = mmap.mmap(memory, offer["size"])
    number = 0
    while True:
        frame = sys.stdin.buffer.read(size)
        if len(frame) < size:
            return
        pages[:8] = struct.pack("<Q", number + 1)
        pages[PAGE:PAGE + size] = frame
        number += 2
        pages[:8] = struct.pack("<Q", number)


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
