"""Probes over HTTP."""
