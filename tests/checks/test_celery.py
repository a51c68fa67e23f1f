"""Celery beyond what every server is put to: workers that are gone, tasks that wait, brokers that take over."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery
import pytest
import redis

from otel_health.checks import celery as checks
from tests.checks.clients import celery_amqp, celery_redis
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.servers import free_port

brokers = pytest.mark.parametrize(
    ("scheme", "broker", "opened"), [("amqp", "rabbitmq", celery_amqp), ("redis", "redis", celery_redis)]
)


@contextmanager
def worker(url: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process of its own."""
    command = [sys.executable, "-m", "celery", "-b", url, "worker", "-P", "solo", "-n", "orders@%h", "-l", "ERROR"]
    command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("make", [checks.answers, checks.workers, lambda app: checks.backlog(app, warn=1)])
def test_what_is_no_app_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no app of Celery") as caught:
        make("amqp://orders:s3cret@broker//")

    assert "s3cret" not in str(caught.value)


def test_arguments_that_make_no_sense_are_refused() -> None:
    """Each is named."""
    app = celery.Celery("orders", set_as_current=False)

    with pytest.raises(ValueError, match="wait=0 must be"):
        checks.answers(app, wait=0)
    with pytest.raises(ValueError, match="count=0 must be"):
        checks.workers(app, count=0)


@brokers
async def test_workers_are_counted_while_they_live(
    servers: Started, tmp_path: Path, scheme: str, broker: str, opened: Any
) -> None:
    """None: it fails. One: it passes, unless two are wanted. Killed: it fails again."""
    port = servers(broker).port
    async with opened(port) as app:
        one, two = (checks.workers(app, count=count, wait=0.5) for count in (1, 2))
        nobody = await result_of(one)
        assert (nobody.status, nobody.observations) == ("fail", {"workers": 0.0})
        with worker(f"{scheme}://127.0.0.1:{port}//", tmp_path):
            assert (await becomes("pass", one)).observations == {"workers": 1.0}
            assert (await result_of(two)).message == "1 of the 2 workers needed answered within 0.5 s"
        assert (await result_of(one)).observations == {"workers": 0.0}


@brokers
async def test_tasks_that_wait_are_held_against_the_limits(
    servers: Started, scheme: str, broker: str, opened: Any
) -> None:
    """Three wait, and nobody works; then they are purged."""
    queue = f"{scheme}-{uuid.uuid4().hex}"
    async with opened(servers(broker).port) as app:
        for _ in range(3):
            app.send_task("ship", queue=queue)
        limits = {"pass": 4, "warn": 3, "fail": 2}
        made = {status: checks.backlog(app, warn=warn, fail=warn + 1, queue=queue) for status, warn in limits.items()}

        for status, check in made.items():
            assert (await becomes(status, check)).observations == {"tasks": 3.0}

        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(queue)
        assert (await becomes("pass", made["fail"])).observations == {"tasks": 0.0}


@brokers
async def test_a_queue_that_is_not_there(servers: Started, scheme: str, broker: str, opened: Any) -> None:
    """RabbitMQ knows that it does not exist; for Redis it is empty."""
    async with opened(servers(broker).port) as app:
        result = await result_of(checks.backlog(app, warn=1, queue=f"{scheme}-{uuid.uuid4().hex}"))

    assert (result.status, result.refined_error_type) == (("fail", "NotFound") if scheme == "amqp" else ("pass", None))


async def test_a_broker_that_refuses_us_is_told(servers: Started) -> None:
    """By its error, and without the password."""
    broker = f"amqp://guest:s3cret@127.0.0.1:{servers('rabbitmq').port}//"
    app = celery.Celery("orders", broker=broker, set_as_current=False)

    result = await result_of(checks.answers(app))

    assert (result.status, result.refined_error_type) == ("fail", "AccessRefused")
    assert "s3cret" not in str(result)


async def test_the_second_broker_takes_over(servers: Started) -> None:
    """Where several are named, one is enough."""
    brokers = [f"redis://127.0.0.1:{port}/0" for port in (free_port(), servers("redis").port)]
    app = celery.Celery("orders", broker=brokers, set_as_current=False)

    assert (await result_of(checks.answers(app))).status == "pass"


async def test_pings_leave_nothing_at_the_broker(servers: Started) -> None:
    """No queue for replies that nobody fetches, and no connection."""
    port = servers("redis").port
    with redis.Redis(port=port) as administrator:
        async with celery_redis(port) as app:
            check = checks.workers(app, wait=0.001)
            await result_of(check)
            before = administrator.dbsize(), len(administrator.client_list())
            assert (await result_of(check)).status == "fail"

            assert (administrator.dbsize(), len(administrator.client_list())) == before
