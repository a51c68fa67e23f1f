"""ZooKeeper beyond what every server is put to: clients that are not started, nodes that are not there, refusals."""

import asyncio
from typing import Any

import pytest
from kazoo.client import KazooClient

from otel_health.checks import zookeeper
from tests.checks.clients import SILENT, kazoo_client
from tests.checks.conftest import Started
from tests.checks.results import PATIENCE, result_of


@pytest.mark.parametrize("client", ["127.0.0.1:2181", None])
def test_what_is_no_client_is_refused(client: Any) -> None:
    """An address is refused at once."""
    with pytest.raises(TypeError, match="is no client of kazoo"):
        zookeeper.answers(client)


async def test_a_client_that_nobody_started_fails_at_once() -> None:
    """It would keep the request for ever."""
    result = await result_of(zookeeper.answers(KazooClient(hosts="127.0.0.1:1")))

    assert (result.status, result.message) == ("fail", "the client is not connected to any server")


async def test_a_node_that_is_not_there_is_an_answer(servers: Started) -> None:
    """That a server says so is what is asked for."""
    async with kazoo_client(servers("zookeeper").port) as client:
        assert (await result_of(zookeeper.answers(client, path="/orders/nothing"))).status == "pass"


async def test_a_server_that_refuses_us_is_told(servers: Started) -> None:
    """By its error while the session ends, and then as no connection; the password is not repeated."""
    hosts, refused = f"127.0.0.1:{servers('zookeeper').port}", [("unknown", "orders:s3cret")]
    client = KazooClient(hosts=hosts, timeout=1.0, logger=SILENT, auth_data=refused)
    started = client.start_async()
    await asyncio.to_thread(started.wait, PATIENCE)
    try:
        result = await result_of(zookeeper.answers(client))
    finally:
        await asyncio.to_thread(client.stop)
        client.close()

    assert result.status == "fail"
    assert result.refined_error_type in {"AuthFailedError", "failed"}
    assert "s3cret" not in str(result)
