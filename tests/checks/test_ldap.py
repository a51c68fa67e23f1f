"""A directory takes a sign-in and answers a search."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ldap3
import pytest

from otel_health import Status
from otel_health.checks import ldap
from tests.checks.doors import FAULTS, Behaviour, fault, result
from tests.checks.programs import goes_and_comes_back, open_files, running
from tests.servers import OwnServer, free_port, missing

# ldap3 leaves a socket that did not connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIGURATION = """
include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
disallow bind_anon
pidfile {directory}/pid
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw right
directory {directory}
"""
ENTRY = """
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example
"""


@contextmanager
def directory() -> Iterator[OwnServer]:
    """A directory of the test's own (slapd), with one entry; it refuses those who give no name."""
    slapd = shutil.which("slapd", path="/usr/sbin:/usr/bin:/usr/lib/openldap") or missing("slapd is not installed")
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        configuration = Path(home) / "slapd.conf"
        configuration.write_text(CONFIGURATION.format(directory=home))
        add = [slapd, "-T", "add", "-f", str(configuration)]
        subprocess.run(add, input=ENTRY, text=True, check=True, capture_output=True)
        port = free_port()
        with running([slapd, "-d", "0", "-f", str(configuration), "-h", f"ldap://127.0.0.1:{port}"], port) as server:
            yield server


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A directory."""
    with directory() as started:
        yield started


def connect(port: int, *, password: str = "right", **options: Any) -> Any:
    """Open a connection as an application would."""
    server = ldap3.Server("127.0.0.1", port, get_info=ldap3.NONE, connect_timeout=0.3)
    return ldap3.Connection(server, "cn=admin,dc=example,dc=org", password, receive_timeout=1, **options)


@pytest.mark.parametrize("base", ["", "dc=example,dc=org"])
@pytest.mark.parametrize(
    "options",
    [{}, {"auto_bind": True}, {"client_strategy": ldap3.SAFE_SYNC}, {"raise_exceptions": True}],
    ids=["plain", "bound", "safe", "raising"],
)
async def test_a_real_directory(server: OwnServer, base: str, options: dict[str, Any]) -> None:
    """It is signed in to and searched, however the connection is set up."""
    found = await result(ldap.answers(partial(connect, server.port, **options), base=base))

    assert (found.status, found.message) == (Status.PASS, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "the sign-in ended with invalidCredentials"),
        ({"client_strategy": ldap3.SAFE_SYNC}, "the sign-in ended with invalidCredentials"),
        ({"auto_bind": True}, "LDAPBindError"),
        ({"raise_exceptions": True}, "LDAPInvalidCredentialsResult"),
    ],
    ids=["plain", "safe", "bound", "raising"],
)
async def test_credentials_that_are_not_taken(server: OwnServer, options: dict[str, Any], said: str) -> None:
    """Whoever notices says so, and nobody says the password."""
    found = await result(ldap.answers(partial(connect, server.port, password="s3cr3t", **options)))

    assert found.status is Status.FAIL
    assert said in (found.message, found.refined_error_type)
    assert "s3cr3t" not in (found.message or "")


@pytest.mark.parametrize("options", [{}, {"client_strategy": ldap3.SAFE_SYNC}], ids=["plain", "safe"])
async def test_an_entry_that_is_not_there(server: OwnServer, options: dict[str, Any]) -> None:
    """The directory's own word for it."""
    found = await result(ldap.answers(partial(connect, server.port, **options), base="ou=nobody,dc=example,dc=org"))

    assert (found.status, found.message) == (Status.FAIL, "the search ended with noSuchObject")


async def test_a_directory_that_goes_and_comes_back() -> None:
    """Killed or frozen it is noticed, and again when it is back."""
    with directory() as server:
        await goes_and_comes_back(ldap.answers(partial(connect, server.port)), server)


@FAULTS
async def test_a_server_that_is_not_well(behaviour: Behaviour | None, said: set[str]) -> None:
    """Whatever it does, the check fails in time."""
    found = await fault(lambda port: ldap.answers(partial(connect, port)), behaviour)

    assert said
    assert found.status is Status.FAIL


async def test_two_hundred_runs_leave_nothing_open(server: OwnServer) -> None:
    """Neither here nor there, whether they are signed in or refused."""
    checks = [
        ldap.answers(partial(connect, server.port)),
        ldap.answers(partial(connect, server.port, password="wrong")),
    ]
    for check in checks:
        await result(check)
    before = open_files()

    for _ in range(100):
        for check in checks:
            await result(check)

    assert open_files() <= before + 1


def test_what_is_refused() -> None:
    """At registration: a connection instead of what opens one."""
    with pytest.raises(TypeError, match="pass a function that opens a connection"):
        ldap.answers(object())  # type: ignore[arg-type]
