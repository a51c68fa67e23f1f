"""Tests of the clients that become checks."""
