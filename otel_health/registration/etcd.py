"""etcd: a key that lives as long as its lease, through the JSON gateway."""

import json
import math
import ssl
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from otel_health.check import require_seconds
from otel_health.registration.json_api import JsonApi, Spoken
from otel_health.registration.registry import Instance, Member, NotRegistered, Refused, Standing
from otel_health.report import Status

_NOT_FOUND = 5
"""The code of gRPC that etcd has for a lease that it does not know."""


class EtcdRegistry:
    """Registers in etcd 3.4 and later: one key for each instance, which etcd drops when its lease ends.

    The key is `<prefix><service>/<id>`, its value JSON: `service`, `id`, `address`, `port`, `tags`, `meta`, `status`
    (`pass`, `warn`, `fail`), `output`, `maintenance`, `dependencies`. An instance that fails keeps its key: readers
    look at `status` and `maintenance`.

    Args:
        urls: Where the members of the cluster answer; another one is asked when one does not.
        ttl: Seconds after which an instance that is not heard of is gone; etcd rounds up to whole ones.
        prefix: What the keys begin with.
        context: Verifies the certificates instead of the system's authorities; load a certificate of your own into
            it where etcd wants one.

    Raises:
        ValueError: An argument makes no sense.

    Example:
        >>> Registration(checker, EtcdRegistry("http://127.0.0.1:2379"), service="orders", address=ip, port=8000)
    """

    name = "etcd"

    def __init__(
        self, *urls: str, ttl: float = 15.0, prefix: str = "/services/", context: ssl.SSLContext | None = None
    ) -> None:
        require_seconds("EtcdRegistry", "ttl", ttl)
        if not urls:
            raise ValueError('EtcdRegistry: give the URL of etcd, as EtcdRegistry("http://127.0.0.1:2379")')
        if not isinstance(prefix, str) or not prefix:
            raise ValueError(f"EtcdRegistry: prefix={prefix!r} must be a string, such as '/services/'")
        self.ttl = float(math.ceil(ttl))
        self._prefix = prefix
        self._api = JsonApi("EtcdRegistry", urls, {}, context)
        self._leases: dict[str, str] = {}

    async def register(self, instance: Instance, standing: Standing) -> None:
        """Enter the instance, in place of whatever has its id.

        A lease that may still live is kept, and prolonged: of two, the older could take the key with it when it ends.
        """
        if instance.id in self._leases:
            try:
                await self.renew(instance, standing)
            except NotRegistered:
                del self._leases[instance.id]
            else:
                return
        granted = await self._ask("/lease/grant", {"TTL": str(int(self.ttl))})
        self._leases[instance.id] = granted["ID"]
        await self._agree(instance, standing)

    async def renew(self, instance: Instance, standing: Standing) -> None:
        """Say that the instance is alive, and have its key say how it is.

        Raises:
            NotRegistered: The lease has ended.
        """
        if instance.id not in self._leases:
            raise NotRegistered("there is no lease")
        # What keeps it alive comes first: either may be lost on the way.
        kept = await self._ask("/lease/keepalive", {"ID": self._leases[instance.id]})
        # A lease that is gone is answered with status 200 as well, only without its TTL.
        if int(kept.get("result", {}).get("TTL", 0)) <= 0:
            raise NotRegistered("the lease has ended")
        await self._agree(instance, standing)

    async def withdraw(self, instance: Instance) -> None:
        """Take the instance out; one that is not there, or that somebody else has put there since, is no error."""
        lease = self._leases.get(instance.id)
        if lease is not None:
            await self._ask("/lease/revoke", {"ID": lease}, gone=True)
            del self._leases[instance.id]

    async def members(self, service: str) -> list[Member]:
        """Return who is registered for a service; keys that were not put there in this manner are passed over.

        Raises:
            OSError: etcd did not answer.
            Refused: It did, but not with members.
        """
        begin = f"{self._prefix}{service}/".encode()
        end = begin[:-1] + bytes([begin[-1] + 1])
        found = await self._ask("/kv/range", {"key": _base64(begin), "range_end": _base64(end)})
        members = (_member(b64decode(each["value"])) for each in found.get("kvs", ()))
        return [member for member in members if member is not None]

    async def _agree(self, instance: Instance, standing: Standing) -> None:
        """Have the key hold what it should; nothing is written where it does.

        Raises:
            NotRegistered: The lease has ended.
        """
        key, value = _base64(self._key(instance)), _base64(_value(instance, standing))
        lease = self._leases[instance.id]
        transaction = {
            "compare": [
                {"key": key, "target": "VALUE", "result": "EQUAL", "value": value},
                {"key": key, "target": "LEASE", "result": "EQUAL", "lease": lease},
            ],
            "success": [],
            "failure": [{"request_put": {"key": key, "value": value, "lease": lease}}],
        }
        await self._ask("/kv/txn", transaction)

    def _key(self, instance: Instance) -> bytes:
        return f"{self._prefix}{instance.service}/{instance.id}".encode()

    async def _ask(self, path: str, body: object, *, gone: bool = False) -> Mapping[str, Any]:
        spoken = await self._api.ask("POST", f"/v3{path}", body)
        if spoken.status == 200 and isinstance(spoken.body, Mapping):
            return spoken.body
        if isinstance(spoken.body, Mapping) and spoken.body.get("code") == _NOT_FOUND:
            if gone:
                return {}
            raise NotRegistered("etcd does not know the lease")
        raise _refused(spoken)


def _refused(spoken: Spoken) -> Refused:
    return Refused(f"etcd answered with status {spoken.status}")


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _value(instance: Instance, standing: Standing) -> bytes:
    said = {
        "service": instance.service,
        "id": instance.id,
        "address": instance.address,
        "port": instance.port,
        "tags": list(instance.tags),
        "meta": dict(instance.meta),
        "status": standing.status,
        "output": standing.output,
        "maintenance": standing.maintenance,
        "dependencies": dict(standing.dependencies),
    }
    return json.dumps(said, separators=(",", ":"), sort_keys=True).encode()


def _member(value: bytes) -> Member | None:
    try:
        said = json.loads(value)
        where = said["service"], said["id"], said["address"], said["port"], tuple(said["tags"]), said["meta"]
        dependencies = {name: Status(status) for name, status in said["dependencies"].items()}
        standing = Standing(Status(said["status"]), said["output"], said["maintenance"], dependencies)
    except (ValueError, KeyError, TypeError, AttributeError):  # Somebody else's, and none of ours to judge.
        return None
    return Member(Instance(*where), standing)
