"""What a registry is told of an instance, and what it tells of all: the words, and what a registry has to do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from otel_health.check import require_name
from otel_health.client.addresses import literal
from otel_health.client.streams import require_host, require_port
from otel_health.http.render import Details
from otel_health.report import HealthReport, Status

OUTPUT_BYTES: Final = 4096
"""What Consul keeps of a check's output."""

MAX_META: Final = 32
"""Names in an instance's metadata; Consul takes 64, and some are ours."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_META_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_LENGTH: Final = 512


class NotRegistered(Exception):
    """The registry does not know the instance, or knows it no more: it has to be registered anew."""


class Refused(Exception):
    """The registry answered, but did not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a service, and where it is reached."""

    service: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an instance is, in its own words."""

    status: Status
    output: str = ""
    """Why it is not simply passing: at most 4 KiB."""
    maintenance: str | None = None
    """Why an operator has taken it out, although it is registered; None otherwise."""
    dependencies: Mapping[str, Status] = field(default_factory=dict)
    """What it finds of each dependency that `fail_open` watches."""


@dataclass(frozen=True, slots=True)
class Member:
    """One registered instance, and how it said it was."""

    instance: Instance
    standing: Standing
    fresh: bool = True
    """Whether it has been heard of lately: what was said by one that has not is out of date."""


class Registry(Protocol):
    """Where instances are registered.

    Each call is one attempt. It raises where it fails, and is cancelled where it takes too long: deadlines, retries
    and logs are the `Registration`'s. Calls never overlap, but for `members`.
    """

    @property
    def name(self) -> str:
        """What it is called in logs and metrics, such as `consul`."""

    @property
    def ttl(self) -> float:
        """Seconds after which an instance that is not heard of counts as gone."""

    async def register(self, instance: Instance, standing: Standing) -> None:
        """Enter the instance, in place of whatever has its id."""

    async def renew(self, instance: Instance, standing: Standing) -> None:
        """Say that the instance is alive, and how it is; put right what has become different in the registry.

        Raises:
            NotRegistered: The registry does not know it.
        """

    async def withdraw(self, instance: Instance) -> None:
        """Take the instance out; one that is not there is no error."""

    async def members(self, service: str) -> Sequence[Member]:
        """Return who is registered for a service."""


def in_words(report: HealthReport, details: Details) -> str:
    """Return why a report is not simply a pass, as far as it may be told: a line for each component.

    Nothing in it changes without a transition, but for the messages of `"full"`.
    """
    if details == "status":
        return ""
    lines = []
    for name, state in report.components.items():
        result = state.result
        if details == "full" and state.decided and result is not None and result.message is not None:
            lines.append(f"{name}: {result.refined_error_type}: {result.message}")
        elif state.error_type is not None:
            lines.append(f"{name}: {state.error_type}")
    return "\n".join(lines).encode()[:OUTPUT_BYTES].decode(errors="ignore")


def require_instance(
    service: str,
    identity: str | None,
    *,
    address: str,
    port: int,
    tags: Sequence[str],
    meta: Mapping[str, str] | None,
) -> Instance:
    """Return what is registered; refuse what some registry could not hold."""
    subject = "Registration"
    require_name(service, "service")
    address, port = require_host(subject, address), require_port(subject, port)
    ip = literal(address)
    if ip is not None and ip.is_unspecified:
        raise ValueError(
            f"{subject}: address={address!r} is what a server binds to, and nobody can reach it; give the address at "
            "which others reach this instance"
        )
    identity = f"{service}-{address}-{port}" if identity is None else identity
    if not isinstance(identity, str) or _ID.fullmatch(identity) is None:
        raise ValueError(f"{subject}: id={identity!r} must be up to 128 letters, digits, '_', '.', ':' or '-'")
    if isinstance(tags, str) or not all(isinstance(tag, str) and tag and tag.isprintable() for tag in tags):
        raise ValueError(f"{subject}: tags={tags!r} must be a list of printable words, such as ['v1', 'eu']")
    for name, value in (meta or {}).items():
        if not isinstance(name, str) or _META_NAME.fullmatch(name) is None or name.startswith("otel_health"):
            raise ValueError(f"{subject}: {name!r} cannot name metadata: use letters, digits, '_' or '-'")
        if not isinstance(value, str) or len(value) > _META_LENGTH:
            raise ValueError(f"{subject}: meta {name!r} must be a string of at most {_META_LENGTH} characters")
    if meta is not None and len(meta) > MAX_META:
        raise ValueError(f"{subject}: {len(meta)} names in meta; a registry takes at most {MAX_META}")
    return Instance(service, identity, address, port, tuple(tags), MappingProxyType(dict(meta or {})))
