"""Servers that the tests of the checks share; each is started when the first test asks for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests import servers as our
from tests.servers import OwnServer

Started = Callable[[str], OwnServer]
"""Gives the server of this name, running."""


@pytest.fixture(scope="session")
def servers() -> Iterator[Started]:
    """Start a server of the tests' own at its first use: `servers("redis")`. They may be killed and frozen."""
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(getattr(our, f"own_{name}")()))
