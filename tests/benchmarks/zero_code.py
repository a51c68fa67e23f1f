"""What the application's own requests pay for health that it knows nothing of, over HTTP and beside itself.

The same application is served three times: as it is, instrumented, and as it is once more, which tells how much of a
difference is none. That is done for an ASGI application under uvicorn, and for a WSGI application under gunicorn.
"""

from functools import partial
from typing import Final

from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.benchmarks.servers import Client, apart, serving

PAGES: Final = {"": "page", "wsgi_": "flask"}
"""What the names of the figures begin with, and what is served."""


def figures(*, quick: bool) -> dict[str, float]:
    """Microseconds of processor time a request, and how many times that of the application as it is."""
    core = apart()
    return {f"{prefix}{name}": each for prefix, page in PAGES.items() for name, each in _of(page, core, quick).items()}


def _of(page: str, core: int | None, quick: bool) -> dict[str, float]:  # noqa: FBT001 - it is handed on.
    seconds, rounds = (0.03, 1) if quick else (0.05, 41)
    instrumented, again = f"{page}, instrumented", f"{page}, again"
    with serving((page, instrumented, again), 1, core=core) as servers:
        measures = {}
        for kind, server in servers.items():
            client = Client(server, "/", keep=True)
            client.wait_for_success()
            measures[kind] = partial(client.cpu_microseconds, seconds)
            measures[kind]()
        found = in_turns(measures, rounds)
    return {
        "ratio": ratio(found, instrumented, page),
        "noise": ratio(found, again, page),
        "page_us": median(found, page),
        "instrumented_us": median(found, instrumented),
    }
