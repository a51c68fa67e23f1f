"""The registries that the tests are held in."""

from collections.abc import AsyncIterator

import pytest

from tests.registration.places import Place, place_of


@pytest.fixture(params=["consul", "etcd"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A place in each registry."""
    async with place_of(request.param) as place:
        yield place
