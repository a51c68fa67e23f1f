"""A port accepts connections."""

from typing import Any

import pytest

from otel_health import Status
from otel_health.checks import tcp
from tests.checks.doors import door, result, rubbish, silent
from tests.servers import free_port, own_nginx


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST"])
async def test_a_real_server(host: str) -> None:
    """It passes while the server accepts, also while it is frozen, and fails when it is killed."""
    with own_nginx() as server:
        serving = await result(tcp.accepts(host, port=server.port))
        server.pause()
        frozen = await result(tcp.accepts(host, port=server.port))
        server.kill()
        killed = await result(tcp.accepts(host, port=server.port))

    assert [serving.status, frozen.status, killed.status] == [Status.PASS, Status.PASS, Status.FAIL]
    assert killed.refined_error_type == "ConnectionRefusedError"


async def test_the_second_address_of_a_name_may_be_the_one() -> None:
    """`localhost` is ::1 first on most machines, and many servers listen on 127.0.0.1 alone."""
    async with door(silent) as server:
        found = await result(tcp.accepts("localhost", port=server.port))

    assert found.status is Status.PASS


async def test_the_connection_is_closed() -> None:
    """Nobody is left inside."""
    async with door(rubbish) as server:
        for _ in range(100):
            await result(tcp.accepts("127.0.0.1", port=server.port))

        assert server.visits == 100
        assert len(server.inside) <= 1


async def test_a_port_where_nobody_listens() -> None:
    """It is refused."""
    found = await result(tcp.accepts("127.0.0.1", port=free_port()))

    assert found.refined_error_type == "ConnectionRefusedError"


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("", 80, "1 to 253 characters"),
        ("fe80::1%eth0", 80, "write the address without it"),
        ("tcp://user:s3cr3t@shop.test", 80, "no host name"),
        ("shop.test:80", 80, "without scheme, user or port"),
        ("shop.test", 0, "port=0"),
        ("shop.test", 65536, "port=65536"),
        ("shop.test", "80", "port='80'"),
        ("shop.test", True, "port=True"),
    ],
)
def test_what_is_refused(host: str, port: Any, reason: str) -> None:
    """At registration, and without repeating what was no host."""
    with pytest.raises(ValueError, match=r"^tcp: ") as refused:
        tcp.accepts(host, port=port)

    assert reason in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
