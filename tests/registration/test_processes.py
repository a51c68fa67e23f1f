"""Registrations of real processes: under a server with several workers, and through kills and SIGTERMs."""

import asyncio
import os
import signal
import time
from pathlib import Path

from otel_health.registration import EtcdRegistry, Member
from tests.servers import shared_etcd
from tests.services import serving

SERVICE = '''
"""A service of several workers, of which one is registered for all."""
import os
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from otel_health import Checker
from otel_health.lifecycle import Drain
from otel_health.registration import EtcdRegistry, Registration
from otel_health.workers import Workers

checker = Checker()
checker.gate("warm", ready=True)
drain = Drain(checker, delay=0.3)

@asynccontextmanager
async def lifespan(app):
    async with drain, checker, Workers(checker) as workers:
        async with Registration(
            checker,
            EtcdRegistry(os.environ["ETCD"], ttl=30),
            service=os.environ["SERVICE"],
            address="127.0.0.1",
            port=8000,
            meta={"pid": str(os.getpid())},
            drain=drain,
            workers=workers,
        ):
            yield

app = Starlette(routes=checker.routes(), lifespan=lifespan)
'''


def test_of_several_workers_one_is_registered_and_another_follows_it(tmp_path: Path) -> None:
    """gunicorn: one instance of two processes; the other speaks when the first is killed, and none is left."""
    url, name = f"http://127.0.0.1:{shared_etcd()}", f"workers-{os.getpid()}"

    def members() -> list[Member]:
        return asyncio.run(EtcdRegistry(url).members(name))

    def speaker(other_than: str = "") -> str:
        deadline = time.monotonic() + 30
        while True:
            found = [member.instance.meta["pid"] for member in members()]
            assert len(found) <= 1
            if found and found[0] != other_than:
                return found[0]
            assert time.monotonic() < deadline, service.log
            time.sleep(0.05)

    with serving(tmp_path, "gunicorn", SERVICE, ETCD=url, SERVICE=name) as service:
        first = speaker()
        os.kill(int(first), signal.SIGKILL)
        speaker(other_than=first)
        service.signal()
        service.ends()
        assert members() == []
