"""Consul: a service with a TTL check, at the agent of this machine."""

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from otel_health.check import require_seconds
from otel_health.registration.json_api import JsonApi, Spoken
from otel_health.registration.registry import Instance, Member, NotRegistered, Refused, Standing
from otel_health.report import Status

DEREGISTER_LEAST: Final = 60.0
"""Seconds: Consul waits at least as long."""

_WORDS: Final = {Status.PASS: "passing", Status.WARN: "warning", Status.FAIL: "critical"}
_STATUSES: Final = {word: status for status, word in _WORDS.items()}
_DEPENDENCIES: Final = "otel_health_dependencies"
_EXPIRED: Final = "TTL expired"
_MAINTENANCE: Final = "_service_maintenance:"


class ConsulRegistry:
    """Registers in Consul, by the HTTP API of its agent.

    The service has one TTL check, which is told pass, warn or fail with the reason as its output. A process that
    dies without a goodbye is critical after `ttl`, and is taken out by Consul after `deregister_after` more.

    Args:
        url: Where the agent answers.
        token: An ACL token that may write the service, and read it for `members`. It is sent, and never said.
        ttl: Seconds after which an instance that is not heard of is critical.
        deregister_after: Seconds for which it may be critical before Consul forgets it; at least 60. One that is alive
            and fails for longer is registered again at its next heartbeat.
        context: Verifies the agent's certificate instead of the system's authorities.

    Raises:
        ValueError: An argument makes no sense.

    Example:
        >>> Registration(checker, ConsulRegistry("http://127.0.0.1:8500"), service="orders", address=ip, port=8000)
    """

    name = "consul"

    def __init__(
        self,
        url: str = "http://127.0.0.1:8500",
        *,
        token: str | None = None,
        ttl: float = 15.0,
        deregister_after: float = 600.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        require_seconds("ConsulRegistry", "ttl", ttl)
        require_seconds("ConsulRegistry", "deregister_after", deregister_after)
        if deregister_after < DEREGISTER_LEAST:
            raise ValueError(
                f"ConsulRegistry: deregister_after={deregister_after!r} is less than the {DEREGISTER_LEAST:g} s that "
                "Consul waits in any case; make it longer"
            )
        self.ttl = ttl
        self._deregister_after = deregister_after
        self._api = JsonApi("ConsulRegistry", [url], {} if token is None else {"X-Consul-Token": token}, context)
        # What cannot be read off the TTL check: it is told again only where it has changed.
        self._maintenance: dict[str, str | None] = {}
        self._dependencies: dict[str, Mapping[str, Status]] = {}

    async def register(self, instance: Instance, standing: Standing) -> None:
        """Enter the instance, in place of whatever has its id."""
        # Consul keeps status and output of a check that is there already, such as that its TTL has expired.
        await self.withdraw(instance)
        self._maintenance[instance.id] = None
        await self._enter(instance, standing)

    async def renew(self, instance: Instance, standing: Standing) -> None:
        """Say that the instance is alive, and how it is.

        Raises:
            NotRegistered: The agent does not take it, for whatever reason: an unknown check is answered with a
                different status by each version of Consul.
        """
        if standing.dependencies != self._dependencies.get(instance.id, {}):
            # Consul passes an output on at once only where the status changes, and a service's metadata always.
            await self._enter(instance, standing)
            return
        try:
            await self._renew(instance, standing)
        except Refused as refused:
            raise NotRegistered(str(refused)) from None

    async def withdraw(self, instance: Instance) -> None:
        """Take the instance out; one that is not there is no error."""
        await self._put(f"/v1/agent/service/deregister/{quote(instance.id, safe='')}", gone=True)

    async def members(self, service: str) -> list[Member]:
        """Return who is registered for a service, as this agent's datacenter knows it.

        Raises:
            OSError: The agent did not answer.
            Refused: It did, but not with members.
        """
        spoken = await self._api.ask("GET", f"/v1/health/service/{quote(service, safe='')}")
        if spoken.status != 200 or not isinstance(spoken.body, list):
            raise _refused(spoken)
        return [_member(entry) for entry in spoken.body]

    async def _enter(self, instance: Instance, standing: Standing) -> None:
        held = standing.maintenance is not None
        check = {
            "CheckID": _check_of(instance),
            "Name": "otel_health",
            "TTL": f"{self.ttl:g}s",
            # Not for a moment better than it is: the maintenance follows.
            "Status": _WORDS[Status.FAIL if held else standing.status],
            "DeregisterCriticalServiceAfter": f"{self._deregister_after:g}s",
        }
        said = {_DEPENDENCIES: _in_meta(standing.dependencies)} if standing.dependencies else {}
        service = {
            "ID": instance.id,
            "Name": instance.service,
            "Address": instance.address,
            "Port": instance.port,
            "Tags": list(instance.tags),
            "Meta": {**instance.meta, **said},
            "Check": check,
        }
        await self._put("/v1/agent/service/register", service)
        self._dependencies[instance.id] = standing.dependencies
        if held:
            self._maintenance[instance.id] = None  # An agent that had forgotten the instance knows nothing of it.
        await self._renew(instance, standing)

    async def _renew(self, instance: Instance, standing: Standing) -> None:
        if standing.maintenance != self._maintenance.get(instance.id):
            said = {"enable": "false" if standing.maintenance is None else "true", "reason": standing.maintenance or ""}
            await self._put(f"/v1/agent/service/maintenance/{quote(instance.id, safe='')}?{urlencode(said)}")
            self._maintenance[instance.id] = standing.maintenance
        told = {"Status": _WORDS[standing.status], "Output": standing.output}
        await self._put(f"/v1/agent/check/update/{quote(_check_of(instance), safe='')}", told)

    async def _put(self, path: str, body: object = None, *, gone: bool = False) -> None:
        spoken = await self._api.ask("PUT", path, body)
        if spoken.status != 200 and not (gone and spoken.status == 404):
            raise _refused(spoken)


def _refused(spoken: Spoken) -> Refused:
    reason = {403: ": the token may not do this, or there is none", 429: ": it is asked too often"}
    return Refused(f"Consul answered with status {spoken.status}{reason.get(spoken.status, '')}")


def _check_of(instance: Instance) -> str:
    return f"service:{instance.id}"


def _in_meta(dependencies: Mapping[str, Status]) -> str:
    return ",".join(f"{name}={status}" for name, status in sorted(dependencies.items()))


def _member(entry: Mapping[str, Any]) -> Member:
    service, checks = entry["Service"], entry["Checks"]
    meta = dict(service["Meta"] or {})
    said = [pair.partition("=") for pair in meta.pop(_DEPENDENCIES, "").split(",") if "=" in pair]
    instance = Instance(
        service["Service"],
        service["ID"],
        service["Address"] or entry["Node"]["Address"],
        service["Port"],
        tuple(service["Tags"] or ()),
        meta,
    )
    own = [check for check in checks if check["CheckID"] == _check_of(instance)]
    held = [check for check in checks if check["CheckID"].startswith(_MAINTENANCE)]
    node_fails = any(not check["ServiceID"] and check["Status"] == "critical" for check in checks)
    output = "\n".join(check["Output"] for check in own)
    standing = Standing(
        _worst(check for check in checks if check["ServiceID"] and check not in held),
        output,
        held[0]["Notes"] if held else None,
        {name: Status(status) for name, _, status in said},
    )
    return Member(instance, standing, fresh=not node_fails and not output.startswith(_EXPIRED))


def _worst(checks: Iterable[Mapping[str, Any]]) -> Status:
    return max((_STATUSES.get(check["Status"], Status.FAIL) for check in checks), default=Status.PASS)
