"""A protocol server that keeps what Consul's agent documents of services and TTL checks. It is not Consul.

The tests that use it run against a real agent where `CONSUL_HTTP_ADDR` names one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ORDER = ("passing", "warning", "critical")
CODES = {"passing": 200, "warning": 429, "critical": 503}
MAINTENANCE = "_service_maintenance:"


@dataclass
class Check:
    """A check of a service; one with a TTL is critical when it has not been told anything for so long."""

    service: str
    status: str
    ttl: float = float("inf")
    deregister_after: float = float("inf")
    output: str = ""
    shown: str = ""
    """What readers of the catalogue see of the output: news of it alone waits for minutes."""
    notes: str = ""
    expires_at: float = float("inf")
    critical_since: float | None = None


@dataclass
class ConsulAgent:
    """What an agent remembers, and how it answers."""

    clock: Callable[[], float]
    unknown_check: int = 404
    """Of older versions: 500."""
    token: str | None = None
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def wipe(self) -> None:
        """Forget everything, as an agent does that is started anew without its data."""
        self.services.clear()
        self.checks.clear()

    def status(self, service: str) -> str | None:
        """How a service is, all its checks together; None where there is none."""
        self._age()
        if service not in self.services:
            return None
        found = [check.status for check in self.checks.values() if check.service == service]
        return max(found, key=ORDER.index, default="passing")

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Do what is asked for."""
        self._age()
        url = urlsplit(target)
        self.requests.append(f"{method} {url.path}")
        if self.token is not None and headers.get("x-consul-token") != self.token:
            return 403, "Permission denied"
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        said: Any = json.loads(body) if body else None
        match [unquote(part) for part in url.path.split("/")[2:]], method:
            case ["agent", "service", "register"], "PUT":
                return self._register(said)
            case ["agent", "service", "deregister", service], "PUT":
                return (200, "") if self._forget(service) else (404, f'Unknown service ID "{service}"')
            case ["agent", "service", "maintenance", service], "PUT":
                return self._maintain(service, query["enable"] == "true", query.get("reason", ""))
            case ["agent", "check", "update", check], "PUT":
                return self._update(check, said)
            case ["agent", "health", "service", "id", service], "GET":
                status = self.status(service)
                return (404, {"AggregatedStatus": "critical"}) if status is None else (CODES[status], status)
            case ["health", "service", service], "GET":
                return 200, [
                    entry for entry in map(self._entry, self.services) if entry["Service"]["Service"] == service
                ]
        return 404, "no such route"

    def _register(self, said: dict[str, Any]) -> tuple[int, Any]:
        service, check = said["ID"], said["Check"]
        before = self.checks.get(check["CheckID"])
        self.services[service] = said
        after = max(_seconds(check["DeregisterCriticalServiceAfter"]), 60.0)
        made = Check(service, check["Status"], _seconds(check["TTL"]), after)
        if before is not None:
            made.status, made.output, made.shown = before.status, before.output, before.shown
        made.expires_at = self.clock() + made.ttl
        made.critical_since = self.clock() if made.status == "critical" else None
        self.checks[check["CheckID"]] = made
        return 200, ""

    def _update(self, name: str, said: dict[str, str]) -> tuple[int, Any]:
        check = self.checks.get(name)
        if check is None:
            return self.unknown_check, f'Unknown check ID "{name}"'
        if said["Status"] not in ORDER:
            return 400, f'Invalid check status: "{said["Status"]}"'
        self._turn(check, said["Status"], said["Output"][:4096])
        check.expires_at = self.clock() + check.ttl
        return 200, ""

    def _maintain(self, service: str, enable: bool, reason: str) -> tuple[int, Any]:  # noqa: FBT001
        if service not in self.services:
            return 404, f'Unknown service ID "{service}"'
        self.checks.pop(MAINTENANCE + service, None)
        if enable:
            self.checks[MAINTENANCE + service] = Check(service, "critical", notes=reason)
        return 200, ""

    def _turn(self, check: Check, status: str, output: str) -> None:
        if status != "critical":
            check.critical_since = None
        elif check.status != "critical":
            check.critical_since = self.clock()
        check.shown = output if status != check.status else check.shown
        check.status, check.output = status, output

    def _age(self) -> None:
        now = self.clock()
        for check in list(self.checks.values()):
            if check.expires_at <= now:
                before = f" (last output before timeout follows): {check.output}" if check.output else ""
                if not check.output.startswith("TTL expired"):
                    self._turn(check, "critical", f"TTL expired{before}")
            if check.critical_since is not None and now - check.critical_since > check.deregister_after:
                self._forget(check.service)

    def _forget(self, service: str) -> bool:
        self.checks = {name: check for name, check in self.checks.items() if check.service != service}
        return self.services.pop(service, None) is not None

    def _entry(self, service: str) -> dict[str, Any]:
        said = self.services[service]
        checks = [
            {"CheckID": name, "ServiceID": service, "Status": each.status, "Output": each.shown, "Notes": each.notes}
            for name, each in self.checks.items()
            if each.service == service
        ]
        alive = {"CheckID": "serfHealth", "ServiceID": "", "Status": "passing", "Output": "", "Notes": ""}
        keys = {key: said.get(key) for key in ("ID", "Address", "Port", "Tags", "Meta")}
        return {
            "Node": {"Address": "127.0.0.1"},
            "Service": {"Service": said["Name"], **keys},
            "Checks": [alive, *checks],
        }


def _seconds(duration: str) -> float:
    assert duration.endswith("s"), duration
    return float(duration[:-1])


@asynccontextmanager
async def serving(agent: ConsulAgent) -> AsyncIterator[int]:
    """Have the agent answer on a port of loopback, from this loop."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, target, _ = line.split(" ")
            status, said = agent.answer(method, target, headers, body)
            encoded = json.dumps(said).encode()
            writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(encoded)}\r\n\r\n".encode() + encoded)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # The client has gone.
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
