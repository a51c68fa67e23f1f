"""etcd, through its JSON gateway, over the HTTP client that the application holds."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, is_async

_ALARM: Final = re.compile(r"alarm:(\w+)")

Body = Mapping[str, object]


class Client(Protocol):
    """What is used of an `httpx.Client` or `httpx.AsyncClient` (`httpx2` too)."""

    @property
    def base_url(self) -> object: ...
    @property
    def post(self) -> Callable[..., Any]: ...


def answers(client: Client) -> CheckFunc:
    """Return a check that etcd answers a read that its quorum agrees upon.

    A member that has lost its leader or its quorum does not. It does not prove that writes are taken (`writable`).
    Redirects are not followed. Cost: one round of the quorum for a key that need not exist. Every 10 s is fine.

    Args:
        client: One with the address of etcd as its `base_url`, and with what authentication etcd wants.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("etcd", etcd.answers(httpx.AsyncClient(base_url="http://127.0.0.1:2379")))
    """

    def conclude(_: Body) -> None: ...

    # The key is a zero byte: no name that anyone uses.
    return _posting(client, "/kv/range", {"key": "AA==", "count_only": True}, conclude)


def writable(client: Client) -> CheckFunc:
    """Return a check that no member of etcd has raised an alarm: with `NOSPACE`, all of etcd refuses writes.

    It writes nothing, and proves no credentials: etcd tells of alarms to anybody (`answers` proves that one may read).
    Redirects are not followed. Cost: one request that a member answers from memory. Every 30 s is fine.

    Args:
        client: One with the address of etcd as its `base_url`, and with what authentication etcd wants.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("etcd-alarms", etcd.writable(client))
    """

    def conclude(body: Body) -> None:
        alarms = sorted(set(_ALARM.findall(str(body.get("errors")))))
        if alarms:
            raise Failed(f"etcd refuses writes: alarm {', '.join(alarms)}")

    return _posting(client, "/maintenance/status", {}, conclude)


def _posting(client: Client, path: str, question: Body, conclude: Callable[[Body], None]) -> CheckFunc:
    if not hasattr(client, "post") or not hasattr(client, "base_url"):
        raise TypeError(
            f"etcd: {type(client).__name__} is no HTTP client with a base_url; pass an httpx client of etcd's address"
        )

    async def ask_async() -> None:
        conclude(_body(await client.post(f"/v3{path}", json=question, follow_redirects=False)))

    def ask() -> None:
        conclude(_body(client.post(f"/v3{path}", json=question, follow_redirects=False)))

    return ask_async if is_async(client.post) else ask


def _body(response: Any) -> Body:
    if response.status_code != 200:
        raise Failed(f"etcd answered with status {response.status_code}")
    body = response.json()
    if not isinstance(body, Mapping) or "header" not in body:
        raise Failed("what answered is not etcd")
    return body
