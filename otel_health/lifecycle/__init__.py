"""What happens around the checks: drains and service managers."""

from otel_health.lifecycle.drain import Drain
from otel_health.lifecycle.systemd import Systemd

__all__ = ["Drain", "Systemd"]
