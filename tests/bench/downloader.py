"""Downloads a URL over and over on many connections and throws the bytes away; reads its plan from stdin."""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time

import machine

BUFFER = memoryview(bytearray(1 << 20))


class Download:
    """One connection; asks again when all of a body is here."""

    def __init__(self, plan: dict) -> None:
        self.request = f"GET {plan['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self.socket = socket.create_connection((plan.get("host", "127.0.0.1"), plan["port"]))
        self.socket.settimeout(0)
        self.left = 0
        self.head = b""
        self.bodies = 0
        self.socket.send(self.request)

    def read(self) -> int:
        got = self.socket.recv_into(BUFFER)
        if got == 0:
            raise SystemExit("the server closed a connection")
        if self.left == 0:
            self.head += bytes(BUFFER[:got])
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return 0
            if not self.head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not a download: {self.head[:300]!r}")
            at = self.head.find(b"Content-Length: ")
            length = int(self.head[at + 16 : self.head.find(b"\r", at)])
            got = len(self.head) - end - 4
            self.left, self.head = length, b""
        self.left -= got
        if self.left == 0:
            self.bodies += 1
            self.socket.send(self.request)
        return got


def run(plan: dict) -> dict:
    with selectors.DefaultSelector() as selector:
        downloads = [Download(plan) for _ in range(plan["connections"])]
        for download in downloads:
            selector.register(download.socket, selectors.EVENT_READ, download)
        total = 0
        watch = {**plan["watch"], "client": os.getpid()}
        clocks, began = machine.read_clocks(watch), time.perf_counter()
        end = began + plan["seconds"]
        while time.perf_counter() < end:
            for key, _ in selector.select(timeout=1):
                total += key.data.read()
        seconds = time.perf_counter() - began
        spent = {name: clock - clocks[name] for name, clock in machine.read_clocks(watch).items()}
        for download in downloads:
            download.socket.close()
    gib = total / 2**30
    return {
        "gib": gib,
        "seconds": seconds,
        "per_s": total / 2**20 / seconds,
        "cpu_s_per_gib": {name: cpu / gib for name, cpu in spent.items()},
        "bodies": sum(download.bodies for download in downloads),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(json.load(sys.stdin))))
