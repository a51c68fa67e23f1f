"""The name server of the tests' island in a process of its own, to be frozen and killed: `shop.test` is 10.0.0.7."""

import asyncio

from tests.checks.island import NameServer, World


async def serve() -> None:
    """Answer until the end."""
    world = World()
    world.begin({"shop.test": [["10.0.0.7"]]})
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: NameServer(world), local_addr=("127.0.0.1", 53))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
