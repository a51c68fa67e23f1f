"""The life of the process: how it starts and ends in good order, whether its event loop lives, and who says so."""

from otel_health.lifecycle.drain import Drain
from otel_health.lifecycle.liveness_server import LivenessServer
from otel_health.lifecycle.loop_monitor import LoopMonitor
from otel_health.lifecycle.systemd import Systemd

__all__ = ["Drain", "LivenessServer", "LoopMonitor", "Systemd"]
