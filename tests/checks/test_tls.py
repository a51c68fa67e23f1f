"""A certificate is valid, and will be for a while."""

import datetime as dt
import ssl
from typing import Any

import pytest
import trustme

from otel_health import Status
from otel_health.checks import tls
from tests.checks.doors import FAULTS, Behaviour, door, fault, result, silent

AUTHORITY = trustme.CA()
TRUSTING = ssl.create_default_context()
AUTHORITY.configure_trust(TRUSTING)


def identity(days: float, name: str = "localhost", *, begins_in: float = -40.0) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that lasts so many days."""
    now = dt.datetime.now(dt.UTC)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert(
        name,
        not_before=now + dt.timedelta(days=begins_in),
        not_after=now + dt.timedelta(days=days),
    ).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("days", "status", "said"),
    [
        (90.0, Status.PASS, None),
        (21.5, Status.PASS, None),
        (20.5, Status.WARN, "degraded"),
        (3.5, Status.WARN, "degraded"),
        (2.5, Status.FAIL, "failed"),
        (-1.0, Status.FAIL, "SSLCertVerificationError"),
    ],
)
async def test_how_long_a_certificate_lasts(days: float, status: Status, said: str | None) -> None:
    """It warns 21 days before, fails 3 days before, and says how many are left."""
    async with door(silent, tls=identity(days)) as server:
        found = await result(tls.lasts("localhost", port=server.port, context=TRUSTING))

    assert (found.status, found.refined_error_type) == (status, said), found.message
    if days > 0:
        assert found.observations["days_left"] == pytest.approx(days, abs=0.1)


@pytest.mark.parametrize(
    ("name", "begins_in", "trusted", "reason"),
    [
        ("elsewhere.test", -1.0, True, "Hostname mismatch"),
        ("localhost", 1.0, True, "not yet valid"),
        ("localhost", -1.0, False, "unable to get local issuer certificate"),
    ],
)
async def test_certificates_that_are_not_believed(
    name: str,
    begins_in: float,
    trusted: bool,  # noqa: FBT001
    reason: str,
) -> None:
    """For somebody else, not yet valid, or from an authority that nobody knows."""
    async with door(silent, tls=identity(90.0, name, begins_in=begins_in)) as server:
        found = await result(tls.lasts("localhost", port=server.port, context=TRUSTING if trusted else None))

    assert found.refined_error_type == "SSLCertVerificationError"
    assert reason in str(found.message)


async def test_the_certificate_may_name_somebody_else_where_that_is_said() -> None:
    """Asked at an address, certified for a name."""
    async with door(silent, tls=identity(90.0, "shop.test")) as server:
        found = await result(tls.lasts("127.0.0.1", port=server.port, server_name="shop.test", context=TRUSTING))

    assert found.status is Status.PASS


@FAULTS
async def test_a_server_that_is_not_well(behaviour: Behaviour | None, said: set[str]) -> None:
    """Whatever it does, the check ends in time and says what it was."""
    found = await fault(lambda port: tls.lasts("127.0.0.1", port=port, context=TRUSTING), behaviour)

    assert found.refined_error_type in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"port": 0}, "port=0"),
        ({"warn_days": 3, "fail_days": 21}, "warn=3"),
        ({"warn_days": float("nan")}, "finite"),
        ({"server_name": ""}, "1 to 253"),
        ({"context": ssl._create_unverified_context()}, "does not verify"),  # noqa: SLF001
    ],
)
def test_what_is_refused(options: dict[str, Any], reason: str) -> None:
    """At registration."""
    with pytest.raises(ValueError, match=reason):
        tls.lasts("shop.test", **options)
