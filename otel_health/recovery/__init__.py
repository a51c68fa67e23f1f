"""What a service mends by itself: tasks that are started anew, and actions after a confirmed failure."""

from otel_health.recovery.actions import free_caches, graceful_restart, ladder, reset_pool, restart
from otel_health.recovery.supervisor import Supervisor

__all__ = ["Supervisor", "free_caches", "graceful_restart", "ladder", "reset_pool", "restart"]
