"""One registration in etcd, in a network of its own where packets are lost: `python -m tests.soak.cut_off SCALE`.

Prints what was seen as JSON. Run it in a namespace of its own (`unshare --net`).
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from otel_health import Checker, Gate
from otel_health.registration import EtcdRegistry, Registration
from tests.servers import OwnServer, free_port, own_etcd
from tests.soak.figure import scaled, silent_checker

RULES: Final = """
add table inet loss
add chain inet loss in {{ type filter hook input priority 0; }}
flush chain inet loss in
add rule inet loss in tcp dport {port} {which} drop
add rule inet loss in tcp sport {port} {which} drop
"""


A_FIFTH: Final = "numgen random mod 100 < 20"
ALL: Final = ""


@contextmanager
def losing(port: int, which: str) -> Iterator[None]:
    """Lose these packets to and from a port."""
    subprocess.run(["nft", "-f", "-"], input=RULES.format(port=port, which=which), text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "loss"], check=True)


async def shown(registry: EtcdRegistry) -> str | None:
    """What others see: the status of the instance, None where there is none."""
    with suppress(OSError):
        for member in await registry.members("orders"):
            return member.standing.status.value
    return None


async def becomes(registry: EtcdRegistry, status: str) -> float:
    """Seconds until others see this status."""
    begun = time.monotonic()
    while await shown(registry) != status:
        await asyncio.sleep(0.01)
        if time.monotonic() - begun > 60:
            return float("inf")
    return time.monotonic() - begun


async def lossy(port: int, watcher: EtcdRegistry, seconds: float) -> tuple[int, int]:
    """Lose a fifth of all packets for so long: how often the instance was missing, of how many looks."""
    missing, looks = 0, 0
    with losing(port, A_FIFTH):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(0.05)
            looks += 1
            missing += await shown(watcher) != "pass"
    return missing, looks


async def turned(gate: Gate, watcher: EtcdRegistry, times: int) -> float:
    """The longest that others had to wait to see a turn."""
    slowest = 0.0
    for _ in range(times):
        gate.close()
        slowest = max(slowest, await becomes(watcher, "fail"))
        gate.open()
        slowest = max(slowest, await becomes(watcher, "pass"))
    return slowest


async def wiped(server: OwnServer, watcher: EtcdRegistry) -> float:
    """Seconds until the instance is back in an etcd that was started anew and knows nothing."""
    server.kill()
    server.forget()
    server.start()
    await asyncio.to_thread(server.wait_until_ready)
    return await becomes(watcher, "pass")


@asynccontextmanager
async def registered(port: int, ttl: float) -> AsyncIterator[Gate]:
    """An instance in etcd, and what turns it."""
    checker: Checker = silent_checker()
    gate = checker.gate("warm", ready=True)
    registry = EtcdRegistry(f"http://127.0.0.1:{port}", ttl=ttl)
    async with checker, Registration(checker, registry, service="orders", address="127.0.0.1", port=8000):
        yield gate


async def live(server: OwnServer, other_port: int, scale: float) -> dict[str, object]:
    """Live through it all."""
    whole = scale >= 0.5
    watcher = EtcdRegistry(f"http://127.0.0.1:{other_port}")
    async with registered(server.port, ttl=15.0) as gate:
        await becomes(watcher, "pass")
        slowest = await turned(gate, watcher, scaled(100, scale, 5))
        seconds = 3600 * scale if whole else 30.0
        missing, looks = await lossy(server.port, watcher, seconds)
    async with registered(server.port, ttl=15.0 if whole else 2.0):
        await becomes(watcher, "pass")
        with losing(server.port, ALL):
            await asyncio.sleep(60 if whole else 6)
            gone = await shown(watcher) is None
        return {
            "slowest": slowest,
            "seconds": seconds,
            "missing": missing,
            "looks": looks,
            "gone": gone,
            "healed": await becomes(watcher, "pass"),
            "wiped": await wiped(server, watcher),
        }


def main() -> None:
    """Print what was seen."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    other_port = free_port()
    with own_etcd(other_port) as server:
        print(json.dumps(asyncio.run(live(server, other_port, float(sys.argv[1])))))


if __name__ == "__main__":
    main()
