"""A bucket is there, with the client that the application holds."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError

from otel_health import Status
from otel_health.checks import s3
from tests.checks.doors import door, dribbling, flooding, result, rubbish, silent, slamming
from tests.checks.programs import Program, open_files, running
from tests.servers import OwnServer, free_port

LIMITS = {"connect_timeout": 0.3, "read_timeout": 0.3, "retries": {"max_attempts": 0}}


def options(port: int) -> dict[str, Any]:
    """How an application would reach the store."""
    return {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "orders",
        "aws_secret_access_key": "s3cr3t",
        "config": Config(**LIMITS),
    }


@asynccontextmanager
async def synchronous(port: int) -> AsyncIterator[Any]:
    """A client of boto3."""
    client = boto3.client("s3", **options(port))
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def asynchronous(port: int) -> AsyncIterator[Any]:
    """A client of aiobotocore."""

    async with get_session().create_client("s3", **(options(port) | {"config": AioConfig(**LIMITS)})) as client:
        yield client


opened = pytest.mark.parametrize("opened", [synchronous, asynchronous])


def store() -> AbstractContextManager[Program]:
    """A store of the test's own (moto), which has no buckets yet."""
    port = free_port()
    return running([str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)], port)


def patient(port: int) -> Any:
    """A client that waits."""
    return boto3.client("s3", **(options(port) | {"config": Config(read_timeout=20)}))


def bucket(port: int) -> None:
    """Make the bucket `invoices`; the first answer of the store takes its time."""
    patient(port).create_bucket(Bucket="invoices")


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A store with a bucket."""
    with store() as started:
        bucket(started.port)
        yield started


@opened
async def test_a_bucket_that_is_there(opened: Any, server: OwnServer) -> None:
    """It is reached, written to if asked, and nothing stays in it."""
    async with opened(server.port) as client:
        reached = await result(s3.answers(client, bucket="invoices"))
        written = await result(s3.answers(client, bucket="invoices", write_key="health"))
    left = boto3.client("s3", **options(server.port)).list_objects_v2(Bucket="invoices")["KeyCount"]

    assert (reached.status, written.status, left) == (Status.PASS, Status.PASS, 0)


@opened
async def test_a_bucket_that_is_not(opened: Any, server: OwnServer) -> None:
    """The store's own error says so."""
    async with opened(server.port) as client:
        found = await result(s3.answers(client, bucket="nowhere"))

    assert (found.status, found.refined_error_type) == (Status.FAIL, "ClientError")
    assert "404" in (found.message or "")


@opened
async def test_credentials_that_are_not_taken(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own error says so, without the secret."""
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "0")  # From the first request on moto wants to know who asks.
    with store() as server:
        with suppress(ClientError):
            patient(server.port).list_buckets()  # Its first answer takes it long.
        async with opened(server.port) as client:
            found = await result(s3.answers(client, bucket="invoices"))

    assert (found.status, found.refined_error_type) == (Status.FAIL, "ClientError")
    assert "403" in (found.message or "")
    assert "s3cr3t" not in str(found)


@opened
async def test_a_store_that_goes_and_comes_back(opened: Any) -> None:
    """Gone it is noticed; back without its bucket it still fails, and passes once that is there."""
    with store() as server:
        bucket(server.port)
        async with opened(server.port) as client:
            assert (await result(s3.answers(client, bucket="invoices"))).status is Status.PASS
            server.pause()
            assert (await result(s3.answers(client, bucket="invoices"), timeout=1.0)).status is Status.FAIL
            server.resume()
            assert (await result(s3.answers(client, bucket="invoices"))).status is Status.PASS
            server.kill()
            assert (await result(s3.answers(client, bucket="invoices"))).refined_error_type == "EndpointConnectionError"
            server.start()
            server.wait_until_ready()
            patient(server.port).list_buckets()  # Its first answer takes it long.
            assert (await result(s3.answers(client, bucket="invoices"))).refined_error_type == "ClientError"
            bucket(server.port)
            assert (await result(s3.answers(client, bucket="invoices"))).status is Status.PASS


@opened
@pytest.mark.parametrize("behaviour", [silent, slamming, rubbish, dribbling, flooding])
async def test_a_server_that_is_not_well(opened: Any, behaviour: Any) -> None:
    """Whatever it does, the check ends in time, and says nothing of the credentials."""
    async with door(behaviour) as faulty, opened(faulty.port) as client:
        found = await result(s3.answers(client, bucket="invoices"), timeout=1.0)

    assert found.status is Status.FAIL
    assert "s3cr3t" not in (found.message or "")


@opened
async def test_two_hundred_runs_leave_nothing_open(opened: Any, server: OwnServer) -> None:
    """The client's connections are used again."""
    async with opened(server.port) as client:
        check = s3.answers(client, bucket="invoices")
        await result(check)
        before = open_files()

        for _ in range(200):
            await result(check)

        assert open_files() <= before + 2


@pytest.mark.parametrize(
    ("client", "name", "key", "reason"),
    [
        ("s3", "invoices", None, "is no S3 client"),
        (None, "invoices", None, "is no S3 client"),
        ("client", "", None, "give the bucket's name"),
        ("client", "invoices", "", "write_key must be"),
    ],
)
def test_what_is_refused(client: Any, name: str, key: str | None, reason: str) -> None:
    """At registration."""
    if client == "client":
        client = boto3.client("s3", **options(1))
    with pytest.raises((TypeError, ValueError), match=reason):
        s3.answers(client, bucket=name, write_key=key)
