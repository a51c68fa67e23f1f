"""Whatever a check raises or returns, whatever it is registered with: a verdict, and the right one."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from httpx2 import ASGITransport, AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_health import Checker, Degraded, ErrorType, Status
from tests.doubles import passing
from tests.soak.figure import Figure, scaled, silent_checker, virtual_checker
from tests.soak.mending import KINDS, harmless
from tests.virtual import VirtualLoop


class Own(BaseException):
    """An exception of an application's own that nobody expects."""


class Unspeakable(Exception):
    """An exception that cannot be put into words."""

    def __str__(self) -> str:
        """Raise."""
        raise SystemExit("from __str__")

    __repr__ = __str__


RAISED: Final[Mapping[str, Callable[[], BaseException]]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "BaseException": lambda: Own("unexpected"),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("a"), OSError("b")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [SystemExit(1), KeyboardInterrupt()]),
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "raising __str__": Unspeakable,
    "10 MB": lambda: ConnectionError("x" * 10_000_000),
    "surrogates": lambda: ConnectionError("\ud800\udfff\x00\x1b[31m\r\n\u2028\x85forged"),
}


def gate_R6(scale: float) -> Figure:
    """Any exception: a failure of its own check, and of nothing else; a real interrupt still stops the process."""
    trials, slowest = 0, 0.0
    wrong: list[str] = []
    for _ in range(scaled(20, scale)):
        for name, make in RAISED.items():
            for kind in ("sync", "async", "listener", *KINDS):
                trials += 1
                begun = time.process_time()
                if not asyncio.run(harmless(make, kind) if kind in KINDS else _raised(make, kind)):
                    wrong.append(f"{name} {kind}")
                slowest = max(slowest, time.process_time() - begun)
    stopped = [_interrupted() for _ in range(scaled(20, scale, 2))]
    return Figure(
        "R6",
        f"{len(RAISED)} classes x sync/async/listener/recovery/task: 0 exits, 0 lost results, only 200/503, JSON, "
        "<= 1 s each; SIGINT stops <= 1 s",
        f"{trials - len(wrong)} of {trials} {sorted(set(wrong))[:3] or ''}, slowest {slowest:.2f} s; "
        f"stopped in {max(stopped):.2f} s",
        not wrong and slowest <= 1.0 and max(stopped) <= 1.0,
    )


BUSY: Final = """
import asyncio, logging, signal, time
from otel_health import Checker

signal.signal(signal.SIGINT, signal.default_int_handler)
checker = Checker(ttl=1e-9, logger=logging.Logger("silent", logging.CRITICAL))

@checker.check("busy")
async def busy():
    print(end=".", flush=True)
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass

async def main():
    while True:
        await checker.run()

# Not asyncio.run, which would keep the interrupt from the check: here it comes in the middle of it.
asyncio.new_event_loop().run_until_complete(main())
"""


def _interrupted() -> float:
    """Return how many seconds after a real SIGINT, in the middle of a check, the process was gone."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(0.1)
        interrupted = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(5)
        return time.monotonic() - interrupted
    except subprocess.TimeoutExpired:
        return float("inf")
    finally:
        process.kill()
        process.communicate()


async def _raised(make: Callable[[], BaseException], kind: str) -> bool:
    """Whether one exception costs its own check alone, in every sink."""
    checker = silent_checker()

    def raising(*_: object) -> None:
        raise make()

    async def raising_async() -> None:
        raise make()

    checker.add("before", passing())
    if kind == "listener":
        checker.subscribe(raising)
        checker.add("it", passing())
    else:
        checker.add("it", raising if kind == "sync" else raising_async)
    checker.add("after", lambda: None)
    report = await checker.run()
    right = report.statuses == {
        "before": Status.PASS, "it": Status.PASS if kind == "listener" else Status.FAIL, "after": Status.PASS
    }  # fmt: skip
    right &= kind == "listener" or report.components["it"].error_type is ErrorType.FAILED
    for details in ("status", "names", "full"):
        transport = ASGITransport(app=checker.asgi(details=details))
        async with AsyncClient(transport=transport, base_url="http://soak") as client:
            for path in ("/readyz", "/livez", "/healthz", "/readyz/before", "/readyz?verbose"):
                response = await client.get(path)
                hidden = details == "status" and path == "/readyz/before"
                right &= response.status_code in ((404,) if hidden else (200, 503))
                right &= hidden or "verbose" in path or _is_json(response.content)
    return right


def _is_json(body: bytes) -> bool:
    try:
        # What RFC 8259 does not know, such as NaN, is no JSON.
        json.loads(body, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return True


class Hostile:
    """An object that breaks at a look."""

    def __bool__(self) -> bool:
        """Raise."""
        raise SystemExit("from __bool__")

    def __eq__(self, other: object) -> bool:
        """Raise."""
        raise RuntimeError("from __eq__")

    __hash__ = None  # type: ignore[assignment]


class BrokenMapping(Mapping[str, float]):
    """A mapping that has a length, and nothing else."""

    def __getitem__(self, key: str) -> float:
        """Raise."""
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        """Raise."""
        raise MemoryError

    def __len__(self) -> int:
        """One."""
        return 1


NUMBERS: Final = st.one_of(
    st.floats(),
    st.integers(),
    st.just(10**400),
    st.decimals(),
    st.fractions(),
)
FINITE: Final = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
WELL_NAMED: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
NAMES: Final = WELL_NAMED | st.text(max_size=70)
VALUES: Final[st.SearchStrategy[Any]] = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.builds(Hostile),
    st.builds(BrokenMapping),
    st.builds(object),
    st.sampled_from([len, Hostile, ..., NotImplemented, iter(())]),
    st.lists(st.none() | NUMBERS),
    st.tuples(st.booleans()),
    st.dictionaries(WELL_NAMED, FINITE, max_size=17),
    st.dictionaries(WELL_NAMED, FINITE | st.booleans(), min_size=1, max_size=3),
    st.dictionaries(WELL_NAMED, NUMBERS, max_size=3),
    st.dictionaries(NAMES, FINITE, max_size=20),
    st.dictionaries(NAMES | st.integers(), NUMBERS | st.booleans() | st.none() | st.text(), max_size=4),
)


def gate_R7(scale: float) -> Figure:
    """Fail closed: nothing passes but None, True or a mapping of finite numbers."""
    wrong: list[str] = []
    counted = {True: 0, False: 0}

    with asyncio.Runner() as runner:

        @settings(
            max_examples=scaled(10_000, scale),
            deadline=None,
            database=None,
            derandomize=scale < 1,
            suppress_health_check=list(HealthCheck),
        )
        @given(VALUES, st.booleans())
        def judged(value: object, sync: bool) -> None:  # noqa: FBT001 - generated.
            passes = runner.run(_passes(value, sync=sync))
            counted[passes] += 1
            if passes is not _ought_to_pass(value):
                wrong.append(type(value).__name__)

        judged()
    return Figure(
        "R7",
        "passes only for None, True or a mapping of finite numbers; all else fails",
        f"{sum(counted.values())} values, {counted[True]} passed, {len(wrong)} wrong {sorted(set(wrong))}",
        not wrong and counted[True] > 0 and sum(counted.values()) >= scaled(10_000, scale),
    )


async def _passes(value: object, *, sync: bool) -> bool:
    checker = silent_checker()

    async def returning() -> Any:
        return value

    checker.add("it", (lambda: value) if sync else returning)  # type: ignore[arg-type, return-value]
    state = (await checker.run()).components["it"]
    return state.status is Status.PASS


def _ought_to_pass(value: object) -> bool:
    if value is None or value is True:
        return True
    if not isinstance(value, dict) or len(value) > 16:
        return False
    return all(_is_name(name) and _is_finite(number) for name, number in value.items())


def _is_name(name: object) -> bool:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    return isinstance(name, str) and 1 <= len(name) <= 64 and set(name) <= allowed and name[0] not in "_.-"


def _is_finite(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal | Fraction):
        return False
    try:
        return math.isfinite(float(number))
    except (OverflowError, ValueError):
        return False


class Model:
    """The reference model of one component, written from the design and not from the code."""

    def __init__(self, failure_threshold: int, success_threshold: int) -> None:
        self.failure_threshold = failure_threshold
        self.success_threshold = success_threshold
        self.status: Status | None = None
        """None while nothing is decided: pending or stale."""
        self.failures = self.successes = 0

    def takes(self, status: Status) -> None:
        """Take in the result of one attempt."""
        if status is Status.FAIL:
            self.failures, self.successes = self.failures + 1, 0
            if self.status in (None, Status.FAIL) or self.failures >= self.failure_threshold:
                self.status = status
            return
        self.failures, self.successes = 0, self.successes + 1
        if self.status in (Status.PASS, Status.WARN) or self.successes >= self.success_threshold:
            self.status = status

    def goes_stale(self) -> None:
        """Forget the verdict: nobody has stood by it for too long."""
        if self.status is not None or self.successes:
            self.status, self.successes = None, 0


def gate_R10(scale: float) -> Figure:
    """Thresholds: the state is that of the reference model after every step."""
    steps, walk = scaled(100_000, scale), 500
    wrong = 0
    for seed in range(-(-steps // walk)):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            wrong += runner.run(_walk(random.Random(seed), walk))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        flaps = runner.run(_alternating(scaled(1000, scale, 100)))
    return Figure(
        "R10",
        "each step equal to the reference model; alternating results at failure_threshold=3: 0 transitions",
        f"{-(-steps // walk) * walk} steps, {wrong} different; {flaps} transitions",
        wrong == 0 and flaps == 0,
    )


async def _walk(random_: random.Random, steps: int) -> int:
    failure_threshold, success_threshold = random_.randint(1, 4), random_.randint(1, 4)
    checker = virtual_checker(
        ttl=0.5, interval=10.0, failure_threshold=failure_threshold, success_threshold=success_threshold
    )
    model, act = Model(failure_threshold, success_threshold), ""
    let_go = asyncio.Event()

    async def check() -> Any:
        if act == "hang":
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue
            return None
        if act == "timeout":
            await asyncio.sleep(3600)
        if act == "warn":
            raise Degraded("a little")
        if act == "fail":
            raise ConnectionError
        return "invalid" if act == "invalid" else None

    checker.add("it", check)
    acts = ["pass"] * 6 + ["warn"] * 2 + ["fail"] * 4 + ["invalid", "timeout", "hang", "age"]
    meanings = {"pass": Status.PASS, "warn": Status.WARN}
    wrong = 0
    hung = False
    for _ in range(steps):
        act = random_.choice(acts)
        if act == "age":
            await asyncio.sleep(30.0)
            model.goes_stale()
        else:
            if hung and random_.random() < 0.5:
                let_go.set()
                await asyncio.sleep(0.01)
                hung = False
                let_go.clear()
            await asyncio.sleep(0.6)
            await checker.run()
            model.takes(Status.FAIL if hung else meanings.get(act, Status.FAIL))
            hung = hung or act == "hang"
        state = checker.report().components["it"]
        expected = model.status or Status.FAIL
        wrong += state.status is not expected or state.consecutive_failures != model.failures
        wrong += state.decided is not (model.status is not None)
    let_go.set()
    await asyncio.sleep(0)
    return wrong


async def _alternating(runs: int) -> int:
    checker = virtual_checker(ttl=0.5, failure_threshold=3)
    transitions: list[object] = []
    number = 0

    async def check() -> bool:
        return number % 2 == 0

    checker.add("flaps", check)
    await checker.run()
    checker.subscribe(transitions.append)
    for number in range(1, runs):  # noqa: B007 - the check reads it.
        await asyncio.sleep(1.0)
        await checker.run()
    return len(transitions)


SENSELESS: Final[tuple[object, ...]] = (0, -1, -0.0, math.nan, math.inf, -math.inf, True, False, "1", "", [], 10**400)
ILL_NAMED: Final[tuple[object, ...]] = (
    *(
        "",
        " ",
        "a b",
        "-a",
        ".a",
        "_a",
        "a" * 65,
        "a/b",
        "a\n",
        "\n",
        "a\x00",
        "\u00e4",
        "\uff41",
        "a{b}",
        "a?b",
        "a:b",
    ),
    *(None, 1, b"a"),
)


def gate_R22(scale: float) -> Figure:  # noqa: ARG001 - there is nothing to shorten.
    """Input rules: what makes no sense is refused where it is written, by name."""
    attempts = list(_attempts())
    accepted = [what for what, named, attempt in attempts if not _refused(attempt, named)]
    return Figure(
        "R22",
        "100 % refused at registration with an error that names the culprit",
        f"{len(attempts) - len(accepted)} of {len(attempts)} {accepted[:5] or ''}".strip(),
        not accepted,
    )


def _attempts() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yield what is tried, a word that the refusal must hold, and the attempt."""
    for value in SENSELESS:
        for option in ("timeout", "interval", "warn_after", "initial_delay"):
            if option == "initial_delay" and value == 0 and not isinstance(value, bool):
                continue
            yield f"check {option}={value!r:.20}", option, _adding(**{option: value})
        for option in ("timeout", "interval", "ttl", "answer_within"):
            yield f"Checker {option}={value!r:.20}", option, _making(**{option: value})
        for option in ("failure_threshold", "success_threshold"):
            if value != 10**400:
                yield f"check {option}={value!r:.20}", option, _adding(**{option: value})
                yield f"Checker {option}={value!r:.20}", option, _making(**{option: value})
    for name in ILL_NAMED:
        yield f"name {name!r:.20}", repr(name), lambda name=name: Checker().add(name, passing())  # type: ignore[misc]
        yield f"probe {name!r:.20}", repr(name), _adding(probes={name})
    for option in ("critical", "local"):
        for flag in (0, 1, None, "yes"):
            yield f"{option}={flag!r}", option, _adding(**{option: flag})
    for second in ("it", "IT", "It"):
        yield f"duplicate {second}", "it", lambda second=second: _twice(second)  # type: ignore[misc]
    yield "self-inclusion", "itself", _including_itself
    yield "unknown option", "timeuot", _adding(timeuot=1.0)
    yield "livez of a dependency", "local", _adding(probes={"livez"})
    yield "no function", "called", lambda: Checker().add("it", None)  # type: ignore[arg-type]


def _refused(attempt: Callable[[], object], named: str) -> bool:
    try:
        attempt()
    except (TypeError, ValueError) as error:
        return named in str(error)
    return False


def _adding(**options: Any) -> Callable[[], object]:
    return lambda: Checker().add("it", passing(), **options)


def _making(**options: Any) -> Callable[[], object]:
    return lambda: Checker(**options)


def _twice(second: str) -> None:
    checker = Checker()
    checker.add("it", passing())
    checker.add(second, passing())


def _including_itself() -> None:
    checker = Checker()
    checker.include("again", checker)
