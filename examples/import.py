#!/usr/bin/env python3
"""Imports a buffer that a guest lends, with Python's own library alone.

It waits for the buffer that has this id, or whose metadata have this value, prints a checksum of the lent bytes, and
holds the buffer until its lender wants it back:

    import.py CONTROL-SOCKET ID|NAME=VALUE        on the host, where vhost-user-udmabuf has --port
"""
import hashlib
import json
import mmap
import os
import socket
import sys


class Buffers:
    """A connection to io.udmabridge.Buffers: varlink messages are JSON objects with a NUL behind each."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.input = b""

    def send(self, method, more=False, **parameters):
        call = {"method": f"io.udmabridge.Buffers.{method}", "parameters": parameters, "more": more}
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


def is_wanted(event, wanted):
    name, is_value, value = wanted.partition("=")
    if not is_value:
        return event["buffer"]["id"] == wanted
    values = (event.get("metadata") or {}).get("values") or {}
    return values.get(name) == value


def checksum(reply, dmabuf):
    # The dma-buf has whole pages, of which a part is lent.
    with mmap.mmap(dmabuf, os.lseek(dmabuf, 0, os.SEEK_END), prot=mmap.PROT_READ) as pages:
        return hashlib.sha256(pages[reply["offset"]:reply["offset"] + reply["size"]]).hexdigest()


def hold(events, buffers, buffer):
    """Uses a buffer until its lender wants it back."""
    reply, descriptors = buffers.call("Import", id=buffer)
    dmabuf, token = descriptors[reply["fileDescriptor"]], descriptors[reply["token"]]
    buffers.call("BeginAccess", id=buffer, mode="read")
    print(f"imported {buffer}: {reply['size']} bytes, sha256 {checksum(reply, dmabuf)}", flush=True)
    buffers.call("EndAccess", id=buffer)
    while True:
        event, _ = events.reply()
        if event["event"] in ("returning", "returned", "revoked") and event["buffer"]["id"] == buffer:
            break
    os.close(dmabuf)
    if event["event"] == "returned":
        print(f"cut off from {buffer}")
    else:
        buffers.call("Release", id=buffer)
        print(f"released {buffer}")
    # Instead of Release it is enough to close this.
    os.close(token)


def main(path, wanted):
    # Events come on a connection of their own.
    events, buffers = Buffers(path), Buffers(path)
    events.send("Watch", more=True)
    while True:
        event, _ = events.reply()
        if event["event"] == "end":
            sys.exit("the guest has ended")
        if event["event"] in ("lent", "metadata") and is_wanted(event, wanted):
            return hold(events, buffers, event["buffer"]["id"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: import.py CONTROL-SOCKET ID|NAME=VALUE")
    try:
        main(*sys.argv[1:])
    except RuntimeError as error:
        sys.exit(f"{error}")
