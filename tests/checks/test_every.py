"""Every check that there is: run many times, at a server that can open nothing, and at one that goes and comes back."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.checks import test_shape
from tests.checks.conftest import Started
from tests.checks.every import EVERY
from tests.checks.leftovers import left_by, noting
from tests.checks.more_servers import with_more
from tests.checks.results import becomes, result_of
from tests.checks.test_faults import Probe, passes_again

RUNS = 20
"""Enough to see what each run leaves, beyond what caches and clients at work do by themselves."""


@pytest.fixture(scope="module")
def all_servers(servers: Started) -> Iterator[Started]:
    """The servers that the tests share, and those that a check here and there needs beside them."""
    with ExitStack() as stack:
        yield with_more(stack, servers)


@pytest.mark.parametrize("name", EVERY)
async def test_many_runs_leave_nothing_behind(all_servers: Started, name: str) -> None:
    """No descriptor, thread, task, connection or memory; `python -m tests.soak R24` runs each a thousand times."""
    left = await left_by(EVERY[name], all_servers, RUNS)

    assert left.nothing, left


def test_every_check_is_run_many_times() -> None:
    """A check that is missing there could leave anything."""
    assert {name.partition(",")[0] for name in EVERY} == {".".join(pair) for pair in test_shape.EVERY}


WITHOUT_FILES = (
    "etcd.answers, etcd-async",
    "grpc.serves, aio",
    "http.answers",
    "kafka.answers, kafka-producer",
    "mqtt.answers, aiomqtt",
    "mqtt.publishes, paho",
    "otlp.accepts",
    "s3.answers, boto3",
    "service.healthy",
    "smtp.answers, starttls",
    "tls.lasts",
    "zookeeper.answers, zookeeper",
)
"""Where a run opens a connection, or where the client is new; slapd sometimes takes nobody in afterwards either."""


@pytest.mark.parametrize("name", WITHOUT_FILES)
async def test_a_server_that_can_open_nothing_more(all_servers: Started, name: str) -> None:
    """The kernel accepts for it, and it cannot take over: who comes now fails in time, and passes once it can again."""
    asked, noted = noting(all_servers)
    row = EVERY[name]
    async with row.opened(noted):
        pass
    with ExitStack() as stack:
        stack.enter_context(next(iter(asked.values())).without_files())
        async with row.opened(all_servers) as check:
            assert (await result_of(check, timeout=0.5)).status == "fail"
            stack.close()
            await becomes("pass", check)


SHARING_NO_WAY = (
    "alembic.migrated, engine",
    "alembic.migrated, async engine",
    "celery.backlog, redis",
    "kafka.lag, confluent",
    "kafka.lag, aiokafka",
    "kafka.progress, confluent",
    "kafka.progress, aiokafka",
    "mysql.replication_lag",
    "mysql.writable, asyncmy",
    "nats.pending",
    "otlp.accepts",
    "postgres.replication_lag",
    "postgres.writable, psycopg",
    "rabbitmq.consumed",
    "redis.cluster_state, async",
    "redis.replication_lag, sync",
    "redis.sentinel_quorum, async",
    "service.healthy",
    "tls.lasts",
)
"""Checks that are no way of `WAYS` and have no such test of their own."""


@pytest.mark.parametrize("name", SHARING_NO_WAY)
async def test_the_other_checks_tell_of_a_server_too(all_servers: Started, name: str) -> None:
    """Frozen, and killed before it goes on: they fail in time, and pass again once it is back."""
    asked, noted = noting(all_servers)
    async with EVERY[name].opened(noted) as check:
        probe, server = Probe(check), next(iter(asked.values()))
        await passes_again(probe)
        server.pause()
        try:
            frozen = await probe.result()
        finally:
            server.kill()
        try:
            killed = await probe.result()
        finally:
            server.start()
        await asyncio.to_thread(server.wait_until_ready)

        assert (frozen.status, frozen.refined_error_type) == ("fail", "timeout")
        assert killed.status == "fail"
        await passes_again(probe)
