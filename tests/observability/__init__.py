"""Dashboards, rules and alerts, against the real Prometheus and Alertmanager."""
