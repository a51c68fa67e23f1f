"""What the application's own requests pay for health that it knows nothing of, over HTTP and beside itself.

The same application is served three times: as it is, instrumented, and as it is once more. Two processes that run the
same differ by some percent for as long as they live, so all three are started anew several times: the quartiles of how
far the application is from itself tell how much of a difference is none. That is done for an ASGI application under
uvicorn, and for a WSGI application under gunicorn.
"""

import statistics
from functools import partial
from typing import Final

from tests.benchmarks.interleaved import in_turns, median, noise, ratio
from tests.benchmarks.servers import Client, apart, serving

PAGES: Final = {"": "page", "wsgi_": "flask"}
"""What the names of the figures begin with, and what is served."""


def figures(*, quick: bool) -> dict[str, float]:
    """Microseconds of processor time a request, and how many times that of the application as it is."""
    core = apart()
    return {f"{prefix}{name}": each for prefix, page in PAGES.items() for name, each in _of(page, core, quick).items()}


def _of(page: str, core: int | None, quick: bool) -> dict[str, float]:  # noqa: FBT001 - it is handed on.
    starts = [_started(page, core, quick) for _ in range(2 if quick else 15)]
    return {
        "ratio": statistics.median(start["ratio"] for start in starts),
        **noise(start["noise"] for start in starts),
        "page_us": statistics.median(start["page_us"] for start in starts),
        "instrumented_us": statistics.median(start["instrumented_us"] for start in starts),
    }


def _started(page: str, core: int | None, quick: bool) -> dict[str, float]:  # noqa: FBT001 - it is handed on.
    """The same of three processes, for as long as they live."""
    seconds, rounds = (0.03, 1) if quick else (0.05, 12)
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
        "ratio": statistics.fmean(ratio(found, instrumented, same) for same in (page, again)),
        "noise": ratio(found, again, page),
        "page_us": median(found, page),
        "instrumented_us": median(found, instrumented),
    }
