"""Registration in Consul, etcd or a registry of your own: one more sink of the same state."""

from otel_health.registration.consul import ConsulRegistry
from otel_health.registration.etcd import EtcdRegistry
from otel_health.registration.fail_open import fail_open
from otel_health.registration.registration import Registration
from otel_health.registration.registry import Instance, Member, NotRegistered, Refused, Registry, Standing

__all__ = [
    "ConsulRegistry",
    "EtcdRegistry",
    "Instance",
    "Member",
    "NotRegistered",
    "Refused",
    "Registration",
    "Registry",
    "Standing",
    "fail_open",
]
