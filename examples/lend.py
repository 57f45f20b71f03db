#!/usr/bin/env python3
"""Lends a file's content to the host, with Python's own library alone.

The card makes the buffer, since a file is no dma-buf. It is lent until standard input ends, and then taken back:

    lend.py FILE [SOCKET]        in a guest where udmabridge-guest serves
"""
import json
import mmap
import os
import socket
import sys


class Lender:
    """A connection to io.udmabridge.Lender: varlink messages are JSON objects with a NUL behind each."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.input = b""

    def send(self, method, more=False, descriptors=(), **parameters):
        call = {"method": f"io.udmabridge.Lender.{method}", "parameters": parameters, "more": more}
        socket.send_fds(self.socket, [json.dumps(call).encode() + b"\0"], descriptors)

    def reply(self):
        """The parameters of the next reply, and the descriptors that came with it."""
        descriptors = []
        while b"\0" not in self.input:
            data, passed, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
            if not data:
                raise SystemExit("the agent is gone")
            self.input += data
            descriptors += passed
        message, self.input = self.input.split(b"\0", 1)
        message = json.loads(message)
        if "error" in message:
            raise SystemExit(f"{message['error']}: {message['parameters'].get('reason', '')}")
        return message["parameters"], descriptors

    def call(self, method, **parameters):
        self.send(method, **parameters)
        return self.reply()


def main(path, agent="/run/udmabridge-guest/lender"):
    with open(path, "rb") as file:
        content = file.read()
    # The buffer is lent for as long as the first connection lasts; events come on one of their own.
    lender, events = Lender(agent), Lender(agent)
    events.send("Watch", more=True)
    events.reply()
    made, descriptors = lender.call("Make", size=len(content))
    buffer = descriptors[made["fileDescriptor"]]
    with mmap.mmap(buffer, made["size"]) as pages:
        pages[:len(content)] = content
    lent, _ = lender.call("Lend", descriptors=[buffer], fileDescriptor=0, size=len(content),
                          metadata={"values": {"name": os.path.basename(path)}})
    print(f"lent {lent['buffer']}", flush=True)
    sys.stdin.buffer.read()
    lender.call("Return", buffer=lent["buffer"])
    # The host may read until it says so.
    while True:
        event, _ = events.reply()
        if event.get("buffer") == lent["buffer"] and event["event"] in ("returned", "revoked"):
            print(event["event"], lent["buffer"])
            break


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: lend.py FILE [SOCKET]")
    main(*sys.argv[1:])
