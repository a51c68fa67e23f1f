"""The client of our own network checks: no timeout, no thread of the event loop, no connection left behind."""
