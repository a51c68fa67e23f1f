"""gunicorn for a service with otel_health: `gunicorn -c examples/gunicorn_conf.py examples.five_lines:app`.

It needs `pip install gunicorn uvicorn-worker` beside the service.
"""

worker_class = "uvicorn_worker.UvicornWorker"
workers = 4

timeout = 30
"""Seconds after which the master kills a worker whose event loop is stuck."""

graceful_timeout = 30
"""Seconds from SIGTERM to SIGKILL: above `delay + cap` of the Drain, which are 25 s at its defaults."""

preload_app = False
"""True saves memory. Pools and Checkers are opened in the lifespan, after the fork, so both work."""
