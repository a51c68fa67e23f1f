"""Memcached beyond what every server is put to: clients that are refused, connections that died."""

from typing import Any

import pymemcache
import pytest

from otel_health.checks import memcached
from tests.checks.clients import memcached_pool
from tests.checks.results import result_of
from tests.servers import own_memcached


class Aiomcache:
    """A client as aiomcache's is: its `version` is a coroutine."""

    async def version(self) -> bytes:
        return b""


@pytest.mark.parametrize("client", ["127.0.0.1:11211", pymemcache.HashClient([]), Aiomcache()])
def test_what_is_no_client_of_one_server_is_refused(client: Any) -> None:
    """An address, a client of many servers, and one that takes no cancellation."""
    with pytest.raises(TypeError, match="is no client of one server by pymemcache"):
        memcached.answers(client)


async def test_a_connection_that_died_since_the_last_run_fails_nothing() -> None:
    """The server was replaced between two runs: the next one passes at once."""
    with own_memcached() as server:
        async with memcached_pool(server.port) as client:
            check = memcached.answers(client)
            assert (await result_of(check)).status == "pass"
            server.kill()
            server.start()
            server.wait_until_ready()

            assert (await result_of(check)).status == "pass"
