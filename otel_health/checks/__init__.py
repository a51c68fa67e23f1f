"""Check functions for what services depend on: one module for each technology, each given the client you hold."""
