"""What happens around the checks: drains and service managers."""

from otel_health.lifecycle.drain import Drain

__all__ = ["Drain"]
