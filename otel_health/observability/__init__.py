"""What one sets up beside a service: dashboards, rules, alerts; `python -m otel_health.observability` writes them."""
