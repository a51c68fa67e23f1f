"""Check functions, their policy and what their outcomes mean."""

import asyncio
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_health import Check, Checker, Degraded, ErrorType, Failed, Status, completes, in_thread, threshold
from otel_health.check import is_async, judge
from otel_health.checks import cgroup, disk, redis
from otel_health.prometheus import PrometheusExporter
from tests.doubles import eventually, passing


class Ended:
    """The ending of a run, as the runner would report it."""

    def __init__(self, value: object = None, exception: BaseException | None = None, duration: float = 0.01) -> None:
        self.value = value
        self.exception = exception
        self.reason: ErrorType | None = None
        self.duration: float | None = duration
        self.blocked = 0.0
        self.timeout = 3.0


POSTGRES = Check(name="postgres", function=passing())


def verdict(value: object) -> tuple[Status, ErrorType | None]:
    """What a returned value means."""
    result = judge(POSTGRES, Ended(value), 0.0)
    return result.status, result.error_type


finite = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)
observation_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", fullmatch=True)
rubbish = st.recursive(
    st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from([0, 1, "", b"", (), [], object, 1j, ...]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(rubbish)
def test_only_none_true_and_mappings_of_finite_numbers_pass(value: object) -> None:
    """Whatever else a check returns fails closed."""
    status, error_type = verdict(value)

    good = isinstance(value, dict) and all(
        isinstance(name, str)
        and name.isascii()
        and name[:1].isalnum()
        and all(letter.isalnum() or letter in "_.-" for letter in name)
        and not isinstance(number, bool)
        and isinstance(number, int | float)
        and math.isfinite(number)
        for name, number in value.items()
    )
    assert (status, error_type) == ((Status.PASS, None) if good else (Status.FAIL, ErrorType.INVALID_RESULT))


@given(st.dictionaries(observation_names, finite, max_size=16))
def test_observations_are_kept_as_floats(observations: dict[str, float]) -> None:
    """A mapping of finite numbers passes and is recorded."""
    result = judge(POSTGRES, Ended(observations), 0.0)

    assert result.status is Status.PASS
    assert dict(result.observations) == {name: float(value) for name, value in observations.items()}


@pytest.mark.parametrize("value", [None, True])
def test_none_and_true_pass(value: object) -> None:
    """Finishing without a value, or with True, is passing."""
    assert verdict(value) == (Status.PASS, None)


def test_false_fails() -> None:
    """A check may say no without raising."""
    assert verdict(False) == (Status.FAIL, ErrorType.FAILED)


@pytest.mark.parametrize(
    "value",
    [
        {str(number): number for number in range(17)},
        {"up": True},
        {"lag": math.nan},
        {"lag": math.inf},
        {"lag": "3"},
        {"bad name": 1},
        {1: 1},
        1,
        "ok",
        Status.PASS,
    ],
)
def test_what_is_not_understood_fails_and_names_the_way_out(value: object) -> None:
    """The message says what a check may return, and names `completes`."""
    result = judge(POSTGRES, Ended(value), 0.0)

    assert result.error_type is ErrorType.INVALID_RESULT
    assert "completes(function, *args)" in str(result.message)


def test_decimals_are_numbers() -> None:
    """Database drivers return Decimal for NUMERIC."""
    assert judge(POSTGRES, Ended({"lag": Decimal("1.5")}), 0.0).observations == {"lag": 1.5}


def test_a_mapping_that_raises_is_an_invalid_result() -> None:
    """A hostile mapping cannot break the judgement."""

    class Hostile(Mapping[str, float]):
        def __getitem__(self, key: str) -> float:
            raise SystemExit(3)

        def __iter__(self) -> Iterator[str]:
            raise KeyboardInterrupt

        def __len__(self) -> int:
            raise MemoryError

    assert verdict(Hostile()) == (Status.FAIL, ErrorType.INVALID_RESULT)


def test_degraded_warns_with_its_observations() -> None:
    """Degraded is a warning, and keeps what was measured."""
    result = judge(POSTGRES, Ended(exception=Degraded("12 waiting", backlog=12)), 0.0)

    assert (result.status, result.error_type, result.message) == (Status.WARN, ErrorType.DEGRADED, "12 waiting")
    assert result.observations == {"backlog": 12.0}


def test_failed_fails_with_its_observations() -> None:
    """Failed keeps what was measured, and is not refined by a class name."""
    result = judge(POSTGRES, Ended(exception=Failed("too many", backlog=12, reason=3)), 0.0)

    assert (result.status, result.refined_error_type) == (Status.FAIL, "failed")
    assert result.observations == {"backlog": 12.0, "reason": 3.0}


def test_any_other_exception_fails_and_is_refined_by_its_class() -> None:
    """The class name is for telemetry; the error type stays in the closed set."""
    result = judge(POSTGRES, Ended(exception=TimeoutError("driver")), 0.0)

    assert (result.error_type, result.exception_type) == (ErrorType.FAILED, "TimeoutError")


def test_degraded_refuses_what_is_no_number() -> None:
    """An observation that is not finite is refused where it is made."""
    with pytest.raises(ValueError, match="'lag' is float, not a finite number"):
        Degraded("behind", lag=math.nan)


def test_a_slow_pass_warns() -> None:
    """From `warn_after` on, a pass is a warn."""
    check = Check(name="queue", function=passing(), warn_after=0.2)

    assert judge(check, Ended(duration=0.19), 0.0).status is Status.PASS
    assert judge(check, Ended(duration=0.2), 0.0).error_type is ErrorType.SLOW


@pytest.mark.parametrize("option", ["timeout", "interval", "warn_after", "initial_delay"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "3", "", [1]])
def test_times_that_make_no_sense_are_refused(option: str, value: object) -> None:
    """A refused time is named, with its check."""
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=rf"check 'redis': {option}=.* must be a positive, finite number of seconds"):
        Checker().add("redis", passing(), **options)


@pytest.mark.parametrize("option", ["timeout", "interval", "warn_after"])
def test_no_time_at_all_is_refused(option: str) -> None:
    """Zero seconds leave no room for a run."""
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ValueError, match=f"{option}=0 must be a positive"):
        Checker().add("redis", passing(), **options)


@pytest.mark.parametrize("option", ["failure_threshold", "success_threshold"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_thresholds_that_make_no_sense_are_refused(option: str, value: object) -> None:
    """A threshold is a whole number of runs."""
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"{option}=.* must be a whole number, at least 1"):
        Checker().add("redis", passing(), **options)
    with pytest.raises(ValueError, match=f"{option}=.* must be a whole number, at least 1"):
        Checker(**options)


@pytest.mark.parametrize("option", ["timeout", "interval", "ttl", "answer_within"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "3", None])
def test_a_checker_refuses_times_that_make_no_sense(option: str, value: object) -> None:
    """What a check would refuse, the Checker refuses at once."""
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"Checker: {option}="):
        Checker(**options)


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a/b", "é", "x" * 65, "a\n", "../etc", None, 3])
def test_ill_formed_names_are_refused(name: Any) -> None:
    """A name must do for a route and for a label."""
    with pytest.raises(ValueError, match="cannot name a check: use 1 to 64 letters"):
        Checker().add(name, passing())


def test_a_function_before_its_name_is_told_apart() -> None:
    """Who swapped them reads in which order they come."""
    with pytest.raises(TypeError, match="the name comes first, then the function"):
        Checker().add(passing(), "redis")  # type: ignore[arg-type]


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True))
def test_well_formed_names_are_taken(name: str) -> None:
    """Every name of the documented form can be registered and found."""
    checker = Checker()
    checker.add(name, passing())

    assert checker.names == (name,)
    assert name.swapcase() in checker


def test_a_name_is_taken_once_whatever_its_case() -> None:
    """Two names that differ in case only would be one on a dashboard."""
    checker = Checker()
    checker.add("redis", passing())

    with pytest.raises(ValueError, match="a check named 'redis' is already registered; choose another name"):
        checker.add("Redis", passing())


def test_an_unknown_option_is_refused_with_the_likely_one() -> None:
    """A misspelt option is named, and so is the one that was meant."""
    options: dict[str, Any] = {"timeot": 3}
    with pytest.raises(TypeError, match="check 'redis': unknown option 'timeot'; did you mean 'timeout'"):
        Checker().add("redis", passing(), **options)


def test_a_check_that_needs_arguments_is_refused() -> None:
    """It could never be run; `partial` and `completes` bind them."""
    with pytest.raises(TypeError, match="check 'redis': the function needs client, and a check takes no arguments"):
        Checker().add("redis", lambda client: client)  # type: ignore[misc, arg-type]
    Checker().add("redis", lambda *_, client=None: client)


def test_the_decorator_without_a_name_is_refused() -> None:
    """It would register nothing, and the probe would pass."""
    checker = Checker()
    with pytest.raises(TypeError, match=r'write @checker.check\("postgres"\)'):
        checker.check(passing())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot name a check"):
        checker.check("a b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meter_provider": PrometheusExporter()}, "a PrometheusExporter; pass exporter.meter_provider"),
        ({"meter_provider": "prometheus"}, "a str; pass a MeterProvider"),
        ({"tracer_provider": "jaeger"}, "a str; pass a TracerProvider"),
        ({"logger": "orders"}, "a str; pass a logging.Logger"),
    ],
)
def test_what_is_no_provider_is_refused(options: dict[str, Any], message: str) -> None:
    """At construction, not at the first run."""
    with pytest.raises(TypeError, match=message):
        Checker(**options)


def test_a_version_that_is_no_string_is_refused() -> None:
    """health+json has strings there."""
    with pytest.raises(ValueError, match="version=1 must be a string"):
        Checker(version=1)  # type: ignore[arg-type]


def test_excluding_a_string_is_refused() -> None:
    """It would exclude every name that is part of it."""
    checker = Checker()
    checker.add("q", passing())
    with pytest.raises(TypeError, match="exclude='orders-queue' must be a set of names"):
        checker.report(exclude="orders-queue")


def test_the_result_of_a_check_is_no_check() -> None:
    """Calling the function instead of passing it is a common slip."""
    with pytest.raises(TypeError, match="check 'redis': bool cannot be called; pass the function"):
        Checker().add("redis", True)  # type: ignore[arg-type]


def test_what_makes_a_check_function_is_none() -> None:
    """A factory that nobody called would look at nothing; `completes` around it would pass for ever."""
    client: Any = object()
    for name, function in {
        "memory": cgroup.memory,
        "redis": partial(redis.answers, client),
        "disk": disk.usage,
    }.items():
        with pytest.raises(
            TypeError, match=f"check '{name}': the function makes a check function and is none; call it"
        ):
            Checker().add(name, function)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="completes: the function makes a check function"):
        completes(redis.answers, client)


async def test_a_check_that_returns_a_function_is_told_to_be_called() -> None:
    """Where nothing in its signature says so, its first run does."""
    checker = Checker()
    checker.add("redis", lambda: passing())  # type: ignore[arg-type, return-value]

    result = (await checker.run()).components["redis"].result

    assert result is not None
    assert result.error_type is ErrorType.INVALID_RESULT
    assert result.message == (
        "returned function: what makes a check function is none; call it, and register what it returns"
    )


def test_whose_signature_cannot_be_told_is_a_check_all_the_same() -> None:
    """As of what is annotated with names that only type checkers know, where Python evaluates those."""

    class Unknown:
        @property
        def __signature__(self) -> Any:
            raise NameError("name 'Pool' is not defined")

        def __call__(self) -> None:
            """Pass."""

    checker = Checker()
    checker.add("database", Unknown())

    assert checker.names == ("database",)


def test_what_stands_around_a_check_wants_a_function_too() -> None:
    """Refused where it is written, not at each run."""
    arounds: dict[str, Callable[[Any], object]] = {
        "completes": completes,
        "in_thread": in_thread,
        "threshold": partial(threshold, warn=1.0),
    }
    for name, around in arounds.items():
        with pytest.raises(TypeError, match=f"{name}: int cannot be called; pass the function, not its result"):
            around(3)


def test_a_client_is_no_check() -> None:
    """Its maker is named: the result of a call is not what was passed."""
    with pytest.raises(TypeError, match=r"object cannot be called; .* nor a client \(otel_health\.checks makes"):
        Checker().add("redis", object())  # type: ignore[arg-type]


def test_livez_takes_only_local_checks() -> None:
    """A failing dependency must never restart the fleet."""
    with pytest.raises(ValueError, match="livez takes only checks declared local=True"):
        Checker().add("postgres", passing(), probes={"livez"})
    Checker().add("deadlock", passing(), probes={"livez"}, local=True)


def test_a_string_is_no_set_of_probes() -> None:
    """`probes="readyz"` would otherwise register six probes of one letter."""
    with pytest.raises(ValueError, match="must be a set of names"):
        Checker().add("redis", passing(), probes="readyz")


def test_a_warning_that_could_never_come_is_refused() -> None:
    """A `warn_after` beyond the timeout is a slip."""
    with pytest.raises(ValueError, match=r"warn_after=5 can never be reached before the timeout of 3.0 s"):
        Checker().add("redis", passing(), warn_after=5)


class AsyncCallable:
    async def __call__(self, *_: object) -> None:
        return None


def asynchronous(*_: object) -> Callable[[], object]:
    return passing()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (passing(), True),
        (AsyncCallable(), True),
        (partial(AsyncCallable(), 1), True),
        (partial(partial(passing())), True),
        (AsyncCallable().__call__, True),
        (lambda: None, False),
        (partial(print), False),
        (in_thread(lambda: None), False),
    ],
)
def test_what_runs_on_the_loop(function: Callable[..., object], expected: bool) -> None:  # noqa: FBT001
    """Coroutine functions, objects with an async call and partials of them run on the loop; all else in a thread."""
    assert is_async(function) is expected


async def test_completes_passes_whatever_is_returned() -> None:
    """For `completes`, finishing is passing, in each of the three kinds of callable."""

    async def fetch(query: str) -> str:
        return query

    checker = Checker()
    checker.add("async", completes(fetch, "SELECT 1"))
    checker.add("sync", completes(len, "abc"))
    checker.add("awaitable", completes(lambda query: fetch(query), "SELECT 1"))
    checker.add("raising", completes(int, "x"))

    report = await checker.run()

    assert report.statuses == {
        "async": Status.PASS,
        "sync": Status.PASS,
        "awaitable": Status.PASS,
        "raising": Status.FAIL,
    }


class MyFailed(Failed):
    """A failure of the user's own that forgets to call its parent."""

    def __init__(self, code: int) -> None:
        self.code = code


class Breaking:
    """An object that breaks whoever looks at it."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("do not look")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", ["my failed", "breaking", "coroutine"])
async def test_what_breaks_its_own_judgement_fails_and_is_run_again(kind: str) -> None:
    """No object a check hands over can lose the result, keep the old one, or end the schedule."""
    calls = 0

    async def check() -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            return None
        if kind == "my failed":
            raise MyFailed(3)
        return Breaking() if kind == "breaking" else asyncio.sleep(0)

    checker = Checker(interval=0.02)
    checker.add("odd", check)
    async with checker:
        await eventually(lambda: calls >= 4)
        assert checker.report().status is Status.FAIL


def test_degraded_and_failed_cross_process_boundaries() -> None:
    """A check may be made in a process pool."""
    copy = pickle.loads(pickle.dumps(Degraded("behind", lag=3)))

    assert (type(copy), str(copy), dict(copy.observations)) == (Degraded, "behind", {"lag": 3.0})


def test_numbers_beyond_a_float_are_not_finite() -> None:
    """Refused as what they are, not by an OverflowError."""
    with pytest.raises(ValueError, match="'lag' is int, not a finite number"):
        Failed("behind", lag=10**400)
    with pytest.raises(ValueError, match="must be a positive, finite number"):
        Checker(timeout=10**400)
