"""What the application's own requests pay for health that it knows nothing of, over HTTP and beside itself.

The same application is served three times: as it is, instrumented, and as it is once more, which tells how much of a
difference is none.
"""

from functools import partial
from typing import Final

from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.benchmarks.servers import Client, apart, serving

KINDS: Final = ("page", "page, instrumented", "page, again")


def figures(*, quick: bool) -> dict[str, float]:
    """Microseconds of processor time a request, and how many times that of the application as it is."""
    seconds, rounds = (0.03, 1) if quick else (0.05, 41)
    with serving(KINDS, 1, core=apart()) as servers:
        measures = {}
        for kind in KINDS:
            client = Client(servers[kind], "/", keep=True)
            client.wait_for_success()
            measures[kind] = partial(client.cpu_microseconds, seconds)
            measures[kind]()
        found = in_turns(measures, rounds)
    return {
        "ratio": ratio(found, "page, instrumented", "page"),
        "noise": ratio(found, "page, again", "page"),
        "page_us": median(found, "page"),
        "instrumented_us": median(found, "page, instrumented"),
    }
