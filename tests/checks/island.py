"""A network of the tests' own: every address of the world leads to one server here, and the only name server is ours.

`python -m tests.checks.island <module> [argument...]` runs the module's `main()` there and prints what it returns as
JSON. It takes Linux's namespaces, so nothing of it is seen outside and nothing can leave it.
"""

import asyncio
import importlib
import json
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast
from urllib.parse import unquote

import pytest

PORTS = (80, 8080)
PATIENCE = 1200.0

SETUP = """
ip link set lo up &&
ip route add local 0.0.0.0/0 dev lo && ip -6 route add local ::/0 dev lo &&
mount --bind {directory}/resolv.conf /etc/resolv.conf && mount --bind {directory}/hosts /etc/hosts &&
exec {python} -m tests.checks.island {module} {arguments}
"""

Names = dict[str, list[list[str]]]
"""What a name resolves to, time after time; the last answer stays. No addresses: no such name; "hang": silence."""


def island_there() -> bool:
    """Whether such a network can be made here."""
    tools = shutil.which("ip") and shutil.which("unshare")
    return (
        bool(tools)
        and not subprocess.run([*_unshare(), "ip", "link", "set", "lo", "up"], capture_output=True).returncode
    )


def on_island(module: str, *arguments: str) -> dict[str, object]:
    """Return what a module's `main()` returns on the island; skip the test where there can be none."""
    if not island_there():
        pytest.skip("a network namespace cannot be made here")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        with open(f"{directory}/resolv.conf", "w") as file:
            file.write("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
        with open(f"{directory}/hosts", "w") as file:
            file.write("127.0.0.1 localhost\n::1 localhost\n")
        script = SETUP.format(
            directory=directory, python=sys.executable, module=module, arguments=shlex.join(arguments)
        )
        ran = subprocess.run([*_unshare(), "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def _unshare() -> list[str]:
    return ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


class World:
    """The server at every address: it notes who was asked, and redirects from `/to/<URL>`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []
        """The address, the port, and what was sent."""
        self.names: Names = {}
        self._turns: dict[tuple[str, int], int] = {}

    def begin(self, names: Names) -> None:
        """Forget who was asked, and let names begin anew."""
        self.asked.clear()
        self._turns.clear()
        self.names = names

    def found(self, name: str, kind: int) -> list[str]:
        """What a name resolves to this time."""
        answers = self.names[name]
        turn = self._turns[name, kind] = self._turns.get((name, kind), -1) + 1
        return answers[min(turn, len(answers) - 1)]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        host, port = writer.get_extra_info("sockname")[:2]
        asked = len(self.asked)
        self.asked.append((host, port, ""))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked[asked] = (host, port, head)
        path = head.split(" ")[1]
        if path.startswith("/to/"):
            code = "302 Found"
            extra = f"Location: {unquote(path.removeprefix('/to/'))}\r\n"
        elif path.startswith("/hint/"):
            code = "200 OK"
            elsewhere = unquote(path.removeprefix("/hint/"))
            extra = f"Refresh: 0; url={elsewhere}\r\nContent-Location: {elsewhere}\r\nLocation: {elsewhere}\r\n"
        else:
            code, extra = "200 OK", ""
        writer.write(f"HTTP/1.1 {code}\r\n{extra}Content-Length: 2\r\n\r\nok".encode("latin-1"))
        await writer.drain()
        writer.close()


class NameServer(asyncio.DatagramProtocol):
    """Answers for A and AAAA what the world's names say."""

    def __init__(self, world: World) -> None:
        self._world = world

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one query."""
        end = data.index(b"\0", 12)
        labels, at = [], 12
        while at < end:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name = ".".join(labels).lower()
        (kind,) = struct.unpack(">H", data[end + 1 : end + 3])
        found = self._world.found(name, kind) if name in self._world.names else []
        if found == ["hang"]:
            return
        version = {1: 4, 28: 6}.get(kind)
        records = [ip_address(each).packed for each in found if ip_address(each).version == version]
        code = 0x8180 if name in self._world.names else 0x8183
        answer = data[:2] + struct.pack(">HHHHH", code, 1, len(records), 0, 0) + data[12 : end + 5]
        for packed in records:
            answer += struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed
        self._transport.sendto(answer, addr)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Serve the world."""
    made = World()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(made), local_addr=("127.0.0.1", 53)
    )
    servers = [
        await asyncio.start_server(made.answer, host, port, family=family)
        for port in PORTS
        for host, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6))
    ]
    try:
        yield made
    finally:
        transport.close()
        for server in servers:
            server.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(importlib.import_module(sys.argv[1]).main(*sys.argv[2:]))))
