#!/usr/bin/env python3
"""A consumer of the frames that vhost-user-udmabuf offers on its control socket, with Python's own library alone.

It waits for each new picture, looks at it through the descriptor that it gets, and prints a line about it:

    consumer.py CONTROL-SOCKET [FRAMES]
"""
import json
import mmap
import os
import socket
import sys


class Display:
    """A connection to io.udmabridge.Display: varlink messages are JSON objects with a NUL behind each."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.input = b""

    def send(self, method, more=False, **parameters):
        call = {"method": f"io.udmabridge.Display.{method}", "parameters": parameters, "more": more}
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def reply(self):
        """The parameters of the next reply, and the descriptors that came with it."""
        descriptors = []
        while b"\0" not in self.input:
            data, passed, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
            if not data:
                raise SystemExit("the helper is gone")
            self.input += data
            descriptors += passed
        message, self.input = self.input.split(b"\0", 1)
        message = json.loads(message)
        if "error" in message:
            raise RuntimeError(message["error"])
        return message["parameters"], descriptors

    def call(self, method, **parameters):
        self.send(method, **parameters)
        return self.reply()


def fnv1a(rows):
    value = 2166136261
    for row in rows:
        for byte in row:
            value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def main(path, frames="1"):
    events, display = Display(path), Display(path)
    events.send("Watch", more=True)
    left = int(frames)
    while left > 0:
        event, _ = events.reply()
        if event["event"] == "end":
            break
        if event["event"] != "frame":
            continue
        try:
            reply, descriptors = display.call("GetFrame", scanout=event["scanout"], hold=True)
        except RuntimeError:
            continue  # the scanout was switched off meanwhile
        frame, fd = reply["frame"], descriptors[reply["fileDescriptor"]]
        with mmap.mmap(fd, frame["size"], prot=mmap.PROT_READ) as pixels:
            starts = (frame["offset"] + row * frame["stride"] for row in range(frame["height"]))
            value = fnv1a(pixels[start:start + frame["width"] * 4] for start in starts)
        os.close(fd)
        print(f"frame {frame['sequence']}: buffer {frame['buffer']}, {frame['width']}x{frame['height']}, "
              f"fnv1a {value:08x}", flush=True)
        display.call("Release", buffer=frame["buffer"])
        left -= 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: consumer.py CONTROL-SOCKET [FRAMES]")
    main(*sys.argv[1:])
