"""Where the tests register: the same tests for etcd and for Consul, each at the end of a wire."""

import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from otel_health import Checker
from otel_health.registration import ConsulRegistry, EtcdRegistry, Member, Registration, Registry
from otel_health.registration.json_api import JsonApi
from tests.registration.consul_agent import ConsulAgent, serving
from tests.registration.wire import Wire, wire_to
from tests.servers import shared_etcd

TTL = 2.0
"""Seconds: the shortest lease that etcd grants."""


@dataclass
class Place:
    """A registry at the end of a wire, and a look at it from elsewhere."""

    wire: Wire
    connect: Callable[..., Any]
    port: int
    service: str

    def registry(self, **options: Any) -> Any:
        """A registry for the instance under test, over the wire."""
        return self.connect(f"http://127.0.0.1:{self.wire.port}", **{"ttl": TTL, **options})

    def registration(self, checker: Checker, registry: Registry | None = None, **options: Any) -> Registration:
        """A registration of the instance under test."""
        where = {"service": self.service, "address": "127.0.0.1", "port": 8000, **options}
        return Registration(checker, registry or self.registry(), **where)

    async def members(self) -> list[Member]:
        """Who is registered, as others see it."""
        members: list[Member] = await self.connect(f"http://127.0.0.1:{self.port}").members(self.service)
        return members

    async def statuses(self) -> list[str]:
        """How those feel who are registered."""
        return [member.standing.status.value for member in await self.members()]

    async def forget(self, registration: Registration) -> None:
        """Have somebody else take the instance out, as a registry does that has lost its data."""
        if self.connect is ConsulRegistry:
            await ConsulRegistry(f"http://127.0.0.1:{self.port}").withdraw(registration.instance)
            return
        api = JsonApi("etcd", [f"http://127.0.0.1:{self.port}"], {}, None)
        key = b64encode(f"/services/{self.service}/{registration.instance.id}".encode()).decode()
        found = await api.ask("POST", "/v3/kv/range", {"key": key})
        assert b64decode(found.body["kvs"][0]["key"])
        await api.ask("POST", "/v3/lease/revoke", {"ID": found.body["kvs"][0]["lease"]})


@asynccontextmanager
async def place_of(name: str) -> AsyncIterator[Place]:
    """A place in a registry: a real one, or for Consul the protocol server of these tests."""
    service = f"orders-{uuid4().hex[:12]}"
    if name == "etcd":
        port = shared_etcd()
        async with wire_to(port) as wire:
            yield Place(wire, EtcdRegistry, port, service)
        return
    real = os.environ.get("CONSUL_HTTP_ADDR")
    if real is not None:
        port = urlsplit(real if "//" in real else f"//{real}").port or 8500
        async with wire_to(port) as wire:
            yield Place(wire, ConsulRegistry, port, service)
        return
    async with serving(ConsulAgent(monotonic)) as port, wire_to(port) as wire:
        yield Place(wire, ConsulRegistry, port, service)
