"""A small file system that fills; `python -m tests.checks.fullness` prints what the check says of one just mounted."""

import asyncio
import json
import sys
from pathlib import Path

from otel_health.checks import disk
from tests.checks.doors import result


async def main(where: Path) -> None:
    """Fill the space, then the inodes."""
    found = {}
    for phase, fill in (("empty", 0), ("space", 900), ("full", 970)):
        (where / "ballast").write_bytes(b"x" * (fill << 10))
        found[phase] = await said(where)
    (where / "ballast").unlink()
    for number in range(91):
        (where / str(number)).touch()
    found["inodes"] = await said(where)
    print(json.dumps(found))


async def said(where: Path) -> list[object]:
    """The status, and which share was the reason."""
    one = await result(disk.usage(where))
    return [one.status, (one.message or "").split(" ")[0], {k: round(v, 2) for k, v in one.observations.items()}]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
