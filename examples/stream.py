#!/usr/bin/env python3
"""A display for the frames that vhost-user-udmabuf offers on its control socket, with Python's own library alone.

After the call of Stream the connection is what QEMU gives to a vhost-user-gpu: this program plays QEMU's part
(docs/interop/vhost-user-gpu.rst of QEMU) and prints a line for each picture of the first scanout:

    stream.py CONTROL-SOCKET [PICTURES]
"""
import json
import mmap
import os
import socket
import struct
import sys

GET_PROTOCOL_FEATURES, SCANOUT, UPDATE, DMABUF_SCANOUT, DMABUF_UPDATE, DMABUF_SCANOUT2 = 1, 7, 8, 9, 10, 12
IS_REPLY, HAS_DMABUF2 = 4, 2


class Connection:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.descriptors = []

    def read(self, count):
        data = b""
        while len(data) < count:
            more, passed, _, _ = socket.recv_fds(self.socket, count - len(data), 1)
            if not more:
                raise SystemExit("the helper is gone")
            data += more
            self.descriptors += passed
        return data

    def upgrade(self):
        self.socket.sendall(json.dumps({"method": "io.udmabridge.Display.Stream", "upgrade": True}).encode() + b"\0")
        answer = b""
        while not answer.endswith(b"\0"):
            answer += self.read(1)
        if "error" in json.loads(answer[:-1]):
            raise SystemExit(answer[:-1].decode())

    def message(self):
        request, _, size = struct.unpack("=3I", self.read(12))
        return request, self.read(size)

    def reply(self, request, payload=b""):
        self.socket.sendall(struct.pack("=3I", request, IS_REPLY, len(payload)) + payload)


class Screen:
    """What is shown: pixels of four bytes, blue, green, red and one that is unused."""

    def __init__(self, width, height, stride, memory, kind):
        self.width, self.height, self.stride, self.memory, self.kind = width, height, stride, memory, kind

    def put(self, x, y, width, height, pixels):
        for row in range(height):
            start = (y + row) * self.stride + x * 4
            self.memory[start:start + width * 4] = pixels[row * width * 4:(row + 1) * width * 4]

    def fnv1a(self):
        value = 2166136261
        for row in range(self.height):
            for byte in self.memory[row * self.stride:row * self.stride + self.width * 4]:
                value = (value ^ byte) * 16777619 & 0xFFFFFFFF
        return value


def main(path, pictures="1"):
    connection, screen, left, has_changed = Connection(path), None, int(pictures), False
    connection.upgrade()
    while left > 0:
        request, payload = connection.message()
        if request in (GET_PROTOCOL_FEATURES, DMABUF_UPDATE):
            # All that is said before has been done.
            if screen and (has_changed or request == DMABUF_UPDATE):
                print(f"{screen.width}x{screen.height} {screen.kind}, fnv1a {screen.fnv1a():08x}", flush=True)
                left, has_changed = left - 1, False
            connection.reply(request, struct.pack("=Q", HAS_DMABUF2) if request == GET_PROTOCOL_FEATURES else b"")
        elif request in (SCANOUT, UPDATE, DMABUF_SCANOUT, DMABUF_SCANOUT2):
            scanout, *numbers = struct.unpack_from(f"={min(len(payload), 40) // 4}I", payload)
            if scanout != 0:
                pass
            elif request == SCANOUT:
                width, height = numbers
                screen = Screen(width, height, width * 4, bytearray(width * height * 4), "pixels") if width else None
            elif request == UPDATE:
                screen.put(*numbers[:4], payload[20:])
                has_changed = True
            elif connection.descriptors:
                width, height, stride = numbers[4:7]
                fd = connection.descriptors[0]
                screen = Screen(width, height, stride, mmap.mmap(fd, stride * height, prot=mmap.PROT_READ), "buffer")
            else:
                screen = None
            for fd in connection.descriptors:
                os.close(fd)
            connection.descriptors = []


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
