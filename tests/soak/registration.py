"""Registrations: nobody is taken out who is well, nobody stays who has gone, and a dead registry costs nothing."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from otel_health.registration import EtcdRegistry, Registration
from tests.registration.schedules import false_expiries, in_virtual_time, live_through
from tests.registration.wire import wire_to
from tests.servers import REQUIRED, free_port, own_etcd
from tests.services import ROOT, running
from tests.soak.figure import Figure, scaled, silent_checker

TTL: Final = 2.0
"""Seconds: the shortest lease that etcd grants."""

REGISTERED: Final = '''
"""An instance that is ready at once, and drains when it is told to end."""
import asyncio, os
from otel_health import Checker
from otel_health.lifecycle import Drain
from otel_health.registration import EtcdRegistry, Registration

async def main():
    checker = Checker()
    checker.gate("warm", ready=True)
    drain = Drain(checker, delay=0.1)
    registry = EtcdRegistry(os.environ["ETCD"], ttl=float(os.environ["TTL"]))
    where = {"service": os.environ["SERVICE"], "address": "127.0.0.1", "port": int(os.environ["AT"])}
    async with checker, drain, Registration(checker, registry, drain=drain, **where):
        await drain.wait()

asyncio.run(main())
'''


def gate_R13(scale: float) -> Figure:
    """Registration: through lost packets, partitions, wiped registries, pauses, SIGTERMs and dead registries."""
    with ThreadPoolExecutor() as pool, own_etcd() as server:
        url = f"http://127.0.0.1:{server.port}"
        cut_off = pool.submit(_cut_off, scale)
        paused = pool.submit(_paused, url, scale)
        terminated = pool.submit(_terminated, url, scaled(100, scale, 3))
        share = asyncio.run(_dead(max(600 * scale, 5.0)))
        wrong, _ = in_virtual_time(partial(false_expiries, 0, 3600.0, 0.2))
        schedules = scaled(1000, scale, 20)
        faults = [fault for seed in range(schedules) for fault in in_virtual_time(partial(live_through, seed))]
        real = scaled(50, scale, 2)
        faults += asyncio.run(_lived_through(server.port, real))
        seen, back, leftovers = cut_off.result(), paused.result(), terminated.result()
    held = wrong == 0 and not faults and back <= 5 and leftovers == 0 and share <= 0.01
    if seen is None:
        network, held = "no network of its own could be made", held and not os.environ.get(REQUIRED)
    else:
        network = (
            f"20 % loss for {seen['seconds']:.0f} s: missing in {seen['missing']} of {seen['looks']} looks; "
            f"shown within {seen['slowest']:.2f} s; after a partition back in {seen['healed']:.1f} s, "
            f"wiped in {seen['wiped']:.1f} s"
        )
        held = held and seen["gone"] and seen["missing"] == 0 and seen["slowest"] <= 1
        held = held and seen["healed"] <= 10 and seen["wiped"] <= 10
    return Figure(
        "R13",
        "20 % loss for 1 h: 0 false expiries; shown <= 1 s; partition, wiped: back <= 10 s; SIGSTOP 2x TTL: <= 5 s; "
        "SIGTERM: 0 leftovers; random schedules: 0 ghosts, 0 resurrections; registry down: CPU <= 1 %",
        f"{network}; {wrong} false expiries in a virtual hour; back {back:.1f} s after SIGSTOP; {leftovers} leftovers "
        f"of {scaled(100, scale, 3)}; {len(faults)} faults in {schedules} schedules and {real} on etcd "
        f"{faults[:2] or ''}; CPU {share:.2%}",
        held,
    )


def _cut_off(scale: float) -> dict[str, Any] | None:
    """What `tests.soak.cut_off` saw in a network of its own; None where there can be none."""
    if not (shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin") and shutil.which("unshare")):
        return None
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        return None
    command = [*unshare, sys.executable, "-m", "tests.soak.cut_off", str(scale)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def _statuses(url: str, service: str) -> list[str]:
    members = asyncio.run(EtcdRegistry(url).members(service))
    return [member.standing.status.value for member in members]


def _until(url: str, service: str, expected: list[str]) -> float:
    """Seconds until others see this."""
    begun = time.monotonic()
    while _statuses(url, service) != expected:
        if time.monotonic() - begun > 60:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - begun


def _paused(url: str, scale: float) -> float:
    """Seconds until a process that was stopped for twice its TTL is back, once it goes on."""
    ttl = 15.0 if scale >= 0.5 else TTL
    with (
        tempfile.TemporaryDirectory() as name,
        running(Path(name), REGISTERED, ETCD=url, TTL=str(ttl), SERVICE="paused", AT="8000") as service,
    ):
        assert _until(url, "paused", ["pass"]) < 60, service.log
        service.signal(signal.SIGSTOP)
        time.sleep(2 * ttl)
        assert _statuses(url, "paused") == []
        service.signal(signal.SIGCONT)
        return _until(url, "paused", ["pass"])


def _terminated(url: str, times: int) -> int:
    """How many of so many instances that were told to end, at whatever moment, are still there when they have."""
    chance, left = random.Random(0), 0
    for number in range(times):
        at = str(9000 + number)
        with (
            tempfile.TemporaryDirectory() as name,
            running(Path(name), REGISTERED, ETCD=url, TTL="60", SERVICE="terminated", AT=at) as service,
        ):
            assert _until(url, "terminated", ["pass"]) < 60, service.log
            time.sleep(chance.uniform(0.0, 0.3))
            service.signal()
            service.ends()
            left += len(_statuses(url, "terminated"))
    return left


async def _dead(seconds: float) -> float:
    """The share of a core that a registration costs whose registry is gone."""
    checker = silent_checker()
    checker.gate("warm", ready=True)
    registry = EtcdRegistry(f"http://127.0.0.1:{free_port()}")
    async with checker, Registration(checker, registry, service="orders", address="127.0.0.1", port=8000):
        await asyncio.sleep(1.0)
        begun, used = time.monotonic(), time.thread_time()
        await asyncio.sleep(seconds)
        share = (time.thread_time() - used) / (time.monotonic() - begun)
        assert checker.report().status == "pass"
    return share


async def _lived_through(port: int, schedules: int) -> list[str]:
    """What went wrong in random schedules of registrations in a real etcd, ten of them at a time."""
    faults: list[str] = []
    places = asyncio.Semaphore(10)

    async def live(seed: int) -> None:
        async with places:
            faults.extend(await _live_through(port, seed))

    await asyncio.gather(*(live(seed) for seed in range(schedules)))
    return faults


async def _live_through(port: int, seed: int) -> list[str]:
    chance, service, faults = random.Random(seed), f"schedule-{seed}", []
    watcher = EtcdRegistry(f"http://127.0.0.1:{port}")

    async def becomes(expected: list[str], seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while [member.standing.status.value for member in await watcher.members(service)] != expected:
            if time.monotonic() > ends:
                return False
            await asyncio.sleep(0.05)
        return True

    async with wire_to(port) as wire:
        for life in range(3):
            checker = silent_checker()
            gate = checker.gate("warm")
            registry = EtcdRegistry(f"http://127.0.0.1:{wire.port}", ttl=TTL)
            registration = Registration(checker, registry, service=service, address="127.0.0.1", port=8000)
            async with checker, registration:
                gate.open()
                if not await becomes(["pass"], 10.0):
                    faults.append(f"seed {seed}, life {life}: not registered")
                for _ in range(chance.randrange(5)):
                    match chance.randrange(4):
                        case 0:
                            gate.close()
                        case 1:
                            gate.open()
                        case 2:
                            wire.refuses = not wire.refuses
                        case 3:
                            wire.frozen = not wire.frozen
                    await asyncio.sleep(chance.choice((0.05, 0.5, 3.0)))
                wire.refuses = wire.frozen = False
                expected = "pass" if gate.is_open else "fail"
                if not await becomes([expected], 10.0):
                    faults.append(f"seed {seed}, life {life}: not back as {expected}")
                await registration.withdraw()
                await asyncio.sleep(chance.choice((0.0, 1.0)))
                if not await becomes([], 0.0):
                    faults.append(f"seed {seed}, life {life}: still there, or there again")
    return faults
