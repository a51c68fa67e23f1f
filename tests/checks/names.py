"""Names that resolve, change, do not exist and hang, on the tests' island."""

import asyncio
import threading
import time

from otel_health import Checker
from otel_health.checks import dns, http, tcp
from tests.checks.doors import result
from tests.checks.island import world
from tests.doubles import passing


async def main() -> dict[str, object]:
    """Return what the checks say of each name."""
    found: dict[str, object] = {}
    async with world() as here:
        here.begin(
            {
                "one.test": [["10.0.0.7"]],
                "two.test": [["10.0.0.7", "fd12::1"]],
                "moved.test": [["10.0.0.8"]],
                "none.test": [[]],
                "hang.test": [["hang"]],
            }
        )
        for name in ("one.test", "two.test", "moved.test", "none.test", "unknown.test", "hang.test", "localhost"):
            expected = ["10.0.0.7", "fd12::1"] if name.endswith(".test") else []
            said = await result(dns.resolves(name, expected=expected), timeout=1.0)
            found[name] = [said.status, said.refined_error_type, said.message, dict(said.observations)]
        found["hanging"] = await hanging()
        here.begin({"hang.test": [["10.0.0.7"]]})
        found["tcp"] = (await result(tcp.accepts("hang.test", port=80))).status
    return found


async def hanging() -> dict[str, object]:
    """Thirty checks whose names hang, beside ones that are well, through five rounds."""
    checker = Checker(timeout=0.3, ttl=0.01, trace="never")
    for number in range(10):
        checker.add(f"dns{number}", dns.resolves("hang.test"))
        checker.add(f"tcp{number}", tcp.accepts("hang.test", port=80))
        checker.add(f"http{number}", http.answers("http://hang.test/"))
    checker.add("well", passing())
    checker.add("sync", lambda: None)
    checker.add("loopback", tcp.accepts("127.0.0.1", port=80))
    late = 0.0
    said: dict[str, set[str]] = {}
    most = 0
    for _ in range(5):
        await asyncio.sleep(0.02)  # Longer than a result is believed.
        begun = time.monotonic()
        report = await checker.run()
        late = max(late, time.monotonic() - begun)
        most = max(most, sum(thread.name.startswith("otel_health") for thread in threading.enumerate()))
        for name, state in report.components.items():
            assert state.result is not None
            said.setdefault(name.rstrip("0123456789"), set()).add(str(state.result.refined_error_type))
    executor = asyncio.get_running_loop()._default_executor  # type: ignore[attr-defined]  # noqa: SLF001
    await checker.__aexit__(None, None, None)
    return {
        "said": {name: sorted(each) for name, each in said.items()},
        "late": late,
        "threads": most,
        "executor": executor is not None,
    }
