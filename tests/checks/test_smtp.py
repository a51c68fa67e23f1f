"""A mail server greets, secures the connection, and takes the credentials."""

import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from otel_health import Status
from otel_health.checks import smtp
from tests.checks.doors import FAULTS, Behaviour, door, fault, result
from tests.checks.programs import goes_and_comes_back, open_files, python
from tests.servers import OwnServer

AUTHORITY = trustme.CA()
TRUSTING = ssl.create_default_context()
AUTHORITY.configure_trust(TRUSTING)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files with a certificate for this machine, and its key."""
    directory: Path = tmp_path_factory.mktemp("identity")
    issued = AUTHORITY.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(directory / "certificate")
    issued.private_key_pem.write_to_path(directory / "key")
    return str(directory / "certificate"), str(directory / "key")


@pytest.fixture(scope="module", params=["starttls", "tls", "none"])
def server(request: pytest.FixtureRequest, identity: tuple[str, str]) -> Iterator[tuple[str, OwnServer]]:
    """A real server, secured in one of the ways."""
    with python("tests.checks.smtp_server", request.param, *identity) as started:
        yield request.param, started


async def test_a_real_server(server: tuple[str, OwnServer]) -> None:
    """It is greeted, secured, and taken leave of."""
    security, started = server
    options: Any = {"security": security, "context": TRUSTING}

    found = await result(smtp.answers("localhost", port=started.port, **options))

    assert (found.status, found.message) == (Status.PASS, None)


@pytest.mark.parametrize(
    ("password", "status", "message"),
    [("right", Status.PASS, None), ("s3cr3t", Status.FAIL, "AUTH was answered 535")],
)
async def test_credentials(server: tuple[str, OwnServer], password: str, status: Status, message: str | None) -> None:
    """They are taken or refused, and never told."""
    security, started = server
    if security == "none":
        return  # No password is sent there.
    options: Any = {"security": security, "user": "orders", "password": password, "context": TRUSTING}

    found = await result(smtp.answers("localhost", port=started.port, **options))

    assert (found.status, found.message) == (status, message)


async def test_a_certificate_that_is_not_believed(server: tuple[str, OwnServer]) -> None:
    """Its authority is not the system's, and nothing is sent after that."""
    security, started = server
    options: Any = {"security": security}

    found = await result(smtp.answers("localhost", port=started.port, **options))

    assert found.refined_error_type == (None if security == "none" else "SSLCertVerificationError")


async def test_a_server_that_goes_and_comes_back(identity: tuple[str, str]) -> None:
    """Killed or frozen it is noticed, and again when it is back."""
    with python("tests.checks.smtp_server", "starttls", *identity) as server:
        await goes_and_comes_back(smtp.answers("localhost", port=server.port, context=TRUSTING), server)


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
@FAULTS
async def test_a_server_that_is_not_well(behaviour: Behaviour | None, said: set[str], security: Any) -> None:
    """Whatever it does, the check ends in time and says what it was."""
    found = await fault(
        lambda port: smtp.answers("localhost", port=port, security=security, context=TRUSTING), behaviour
    )

    assert found.refined_error_type in said, found.message


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (b"421 too many connections\r\n", "the greeting was answered 421"),
        (b"220 mail.test\r\n554 no\r\n", "EHLO was answered 554"),
        (b"220 mail.test\r\n250-mail.test\r\n250 HELP\r\n454 no TLS now\r\n", "STARTTLS was answered 454"),
        (b"220-mail\r\n" * 101, "what came back is no SMTP"),
        (b"220" + b"x" * 20_000 + b"\r\n", "what came back is no SMTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what came back is no SMTP"),
    ],
)
async def test_servers_that_refuse(greeting: bytes, message: str) -> None:
    """What was refused is said, without the server's words."""

    async def refusing(reader: Any, writer: Any) -> None:
        writer.write(greeting)
        await reader.read()

    async with door(refusing) as server:
        found = await result(smtp.answers("localhost", port=server.port, context=TRUSTING))

    assert (found.status, found.message) == (Status.FAIL, message)


async def test_a_hundred_runs_leave_nothing_open(server: tuple[str, OwnServer]) -> None:
    """No descriptor of ours stays."""
    security, started = server
    options: Any = {"security": security, "context": TRUSTING}
    run: Callable[[], Awaitable[None]] = smtp.answers("127.0.0.1", port=started.port, **options)  # type: ignore[assignment]
    await run()
    before = open_files()

    for _ in range(100):
        await run()

    assert open_files() <= before + 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"security": "ssl"}, "security='ssl' must be"),
        ({"user": "orders"}, "user and password go together"),
        ({"password": "s3cr3t"}, "user and password go together"),
        ({"user": "orders", "password": "s3cr3t", "security": "none"}, "over TLS only"),
        ({"port": 0}, "port=0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], reason: str) -> None:
    """At registration, and without repeating a secret."""
    with pytest.raises(ValueError, match=reason) as refused:
        smtp.answers("mail.test", **options)

    assert "s3cr3t" not in str(refused.value)
