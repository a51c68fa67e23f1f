"""LDAP: a directory takes a sign-in and answers a search."""

from collections.abc import Callable, Mapping
from typing import Protocol

from otel_health.check import CheckFunc, Failed


class Connection(Protocol):
    """What is used of a connection of ldap3."""

    bound: bool
    result: Mapping[str, object] | None

    def bind(self) -> object:
        """Sign in."""

    def search(self, search_base: str, search_filter: str, search_scope: str, /) -> object:
        """Search."""

    def unbind(self) -> object:
        """Take leave and close."""


def answers(connect: Callable[[], Connection], *, base: str = "") -> CheckFunc:
    """Return a check that opens a connection as the application does, signs in, and reads one entry.

    It proves the way to the directory, the credentials that `connect` uses, and that the entry is there. It takes
    what opens a connection, since connections of ldap3 cannot be shared between threads.

    Cost: one connection, a sign-in and a search; every 30 to 60 s is fine. On `readyz` where nobody can sign in
    without it. The connection's own limits apply: without them a directory that hangs leaves the check `hung` until
    it goes on, so give the server `connect_timeout=2` and the connection `receive_timeout=2`.

    Args:
        connect: Returns a new connection, such as
            `lambda: ldap3.Connection(server, user, password, receive_timeout=2)`.
        base: The name of the entry to read; the directory's root, which everyone may read, if empty.

    Raises:
        TypeError: `connect` cannot be called.

    Example:
        >>> checker.add("directory", ldap.answers(connect, base="dc=example,dc=org"), interval=60)
    """
    if not callable(connect):
        raise TypeError(f"ldap: {type(connect).__name__} cannot be called; pass a function that opens a connection")

    def check() -> None:
        connection = connect()
        try:
            if not connection.bound:
                _require(connection, "the sign-in", connection.bind())
            _require(connection, "the search", connection.search(base, "(objectClass=*)", "BASE"))
        finally:
            connection.unbind()

    return check


def _require(connection: Connection, what: str, answer: object) -> None:
    """Fail unless the answer is good; the strategies that are safe for threads return it with its result."""
    good, result = (answer[0], answer[1]) if isinstance(answer, tuple) else (answer, connection.result)
    if not good:
        description = result.get("description") if isinstance(result, Mapping) else None
        raise Failed(f"{what} ended with {description}")
