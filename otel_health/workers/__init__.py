"""Several processes of one service: who they are, who runs what for all, and how they are seen as one."""

from otel_health.workers.workers import Workers

__all__ = ["Workers"]
