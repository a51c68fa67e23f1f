"""The pictures of the dashboards: a service that has seen better days, and Grafana's components to draw what it was."""
