"""Leads to another port for as long as it lives: `python -m tests.instrumentation.clients.forwarder PORT TARGET`.

A server that takes long to start is stopped and started in a moment by stopping and starting the way to it.
"""

import asyncio
import sys


async def serve(port: int, target: int) -> None:
    """Forward until the end."""

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(visit, "127.0.0.1", port)
    await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what is said, to the end."""
    while said := await reader.read(65536):
        writer.write(said)
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
