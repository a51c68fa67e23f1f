"""The life of the process: whether its event loop lives, and who says so when it does not."""

from otel_health.lifecycle.liveness_server import LivenessServer
from otel_health.lifecycle.loop_monitor import LoopMonitor

__all__ = ["LivenessServer", "LoopMonitor"]
