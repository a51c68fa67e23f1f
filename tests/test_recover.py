"""Recovery actions: taken once a failure is confirmed, one at a time, few in all, and seen in every sink."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Check, Checker, CheckResult, Degraded, ErrorType, Status
from otel_health.lifecycle import Drain
from otel_health.recovery import ladder
from otel_health.registry import Component
from otel_health.remedies import confirmed
from otel_health.report import ComponentState, Recovery, RecoveryOutcome, RecoveryState
from otel_health.testing import blocking
from tests.doubles import Switch, eventually, swallowing
from tests.soak.figure import series_of
from tests.virtual import now, virtual_checker


class Action:
    """A recovery action that notes when it was taken, and mends what it is told to."""

    def __init__(self, mends: Switch | None = None, seconds: float = 0.0, error: BaseException | None = None) -> None:
        self.taken: list[float] = []
        self.running = self.most = 0
        self._mends, self._seconds, self._error = mends, seconds, error

    async def __call__(self) -> None:
        self.taken.append(now())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.running -= 1
        if self._error is not None:
            raise self._error
        if self._mends is not None:
            self._mends.error = None


def broken() -> Switch:
    """A check that fails until it is mended."""
    switch = Switch()
    switch.error = ConnectionError("refused")
    return switch


def recovery(checker: Checker, name: str = "redis") -> Recovery:
    """How the recovery of the component stands."""
    found = checker.report("healthz").components[name].recovery
    assert found is not None
    return found


@pytest.mark.virtual_time
async def test_a_confirmed_failure_is_mended_and_looked_at_again_at_once() -> None:
    """It is up again a moment later, and not at the next interval."""
    redis = Switch()
    reconnect = Action(mends=redis)
    async with virtual_checker(interval=100.0) as checker:
        checker.add("redis", redis, recover=reconnect)
        await asyncio.sleep(1)
        assert (checker.report().status, recovery(checker)) == (Status.PASS, Recovery())

        redis.error = ConnectionError("refused")
        checker.renew("redis")
        await asyncio.sleep(0.01)

        assert len(reconnect.taken) == 1
        assert checker.report().status is Status.PASS
        assert recovery(checker).state is RecoveryState.IDLE
        assert recovery(checker).outcome is RecoveryOutcome.SUCCEEDED
        assert recovery(checker).action == "Action"


@pytest.mark.virtual_time
async def test_three_attempts_with_growing_pauses_and_then_it_gives_up() -> None:
    """Nothing more is done until the component has been up again."""
    redis = broken()
    reconnect = Action()
    async with virtual_checker() as checker:
        checker.add("redis", redis, recover=reconnect)
        await asyncio.sleep(3600)

        assert len(reconnect.taken) == 3
        first, second = reconnect.taken[1] - reconnect.taken[0], reconnect.taken[2] - reconnect.taken[1]
        assert 24 <= first <= 36 + 12
        assert 96 <= second <= 144 + 12
        assert recovery(checker).state is RecoveryState.GAVE_UP
        redis.error = None
        await asyncio.sleep(15)
        assert recovery(checker).state is RecoveryState.IDLE
        redis.error = ConnectionError("refused")
        await asyncio.sleep(15)
        assert len(reconnect.taken) == 4


@pytest.mark.virtual_time
async def test_a_flapping_component_has_no_more_than_three_attempts_in_ten_minutes() -> None:
    """However often it comes back in between."""
    redis = broken()
    reconnect = Action(mends=redis)
    async with virtual_checker(interval=1.0) as checker:
        checker.add("redis", redis, recover=reconnect)
        for second in range(7200):
            if second % 10 < 5:
                redis.error = ConnectionError("refused")
            else:
                redis.error = None
            await asyncio.sleep(1)

    assert len(reconnect.taken) > 12
    for begun in reconnect.taken:
        assert sum(begun <= each < begun + 600 for each in reconnect.taken) <= 3


@pytest.mark.virtual_time
async def test_the_threshold_confirms_a_failure() -> None:
    """The first of three failures calls for nothing, not even where the component was never up."""
    redis = broken()
    reconnect = Action()
    async with virtual_checker(failure_threshold=3, interval=1.0) as checker:
        checker.add("redis", redis, recover=reconnect)
        await asyncio.sleep(0.1)
        assert checker.report().status is Status.FAIL
        assert reconnect.taken == []
        await asyncio.sleep(3)
        assert len(reconnect.taken) == 1


@pytest.mark.virtual_time
async def test_a_timeout_and_a_hang_are_failures_that_are_confirmed() -> None:
    """A dependency that does not answer is as broken as one that refuses."""
    reconnect = Action()
    async with virtual_checker(interval=1.0, timeout=0.5) as checker:
        checker.add("redis", swallowing(), recover=reconnect)
        await asyncio.sleep(60)
        assert checker.report().components["redis"].error_type is ErrorType.HUNG
        assert len(reconnect.taken) == 2


@pytest.mark.parametrize("what", ["pending", "stale", "invalid", "warn", "on demand", "closed gate of a drain"])
@pytest.mark.virtual_time
async def test_what_is_not_known_to_have_failed_is_left_alone(what: str) -> None:
    """Nor is anything mended that is about to end, or that nobody watches over."""
    reconnect = Action()
    redis = broken()
    checker = virtual_checker(interval=10.0)

    async def check() -> Any:
        if what == "invalid":
            return "PONG"
        if what == "warn":
            raise Degraded("a little")
        return await redis()

    checker.add("redis", check, recover=reconnect, initial_delay=1e6 if what == "pending" else 0)
    if what == "on demand":
        for _ in range(100):
            await checker.run()
            await asyncio.sleep(10)
    elif what == "stale":
        redis.error = None
        await checker.run()
        await asyncio.sleep(3600)
        assert checker.report().components["redis"].error_type is ErrorType.STALE
    else:
        async with checker, Drain(checker) as drain:
            if what == "closed gate of a drain":
                drain.begin()
            await asyncio.sleep(3600)

    assert reconnect.taken == []


@pytest.mark.parametrize("error_type", ErrorType)
def test_only_a_run_that_failed_confirms_a_failure(error_type: ErrorType) -> None:
    """Not that no thread was free, that the check is wrong, or that nothing is known."""
    component = Component(Check(name="redis", function=Switch()), None, 0.0)  # type: ignore[arg-type]
    component.state = ComponentState(Status.FAIL, 0.0, error_type=ErrorType.FAILED, consecutive_failures=1)
    result = CheckResult("redis", Status.FAIL, 0.1, 0.0, error_type)

    assert confirmed(component, result) is (error_type in {"failed", "timeout", "hung"})
    component.state = component.state._replace(error_type=ErrorType.STALE)
    assert not confirmed(component, result)


@pytest.mark.virtual_time
async def test_an_action_that_hangs_blocks_nothing_and_never_runs_twice() -> None:
    """It has its own deadline; checks go on meanwhile, and later attempts find it still alive."""
    cancelled: list[object] = []
    redis, other = broken(), Switch()
    hang = swallowing(cancelled)
    begun: list[float] = []

    async def reconnect() -> None:
        begun.append(now())
        await hang()

    async with virtual_checker(interval=1.0) as checker:
        checker.add("redis", redis, recover=reconnect, recover_within=5.0)
        checker.add("other", other)
        await asyncio.sleep(4)
        assert recovery(checker).state is RecoveryState.RUNNING
        await asyncio.sleep(2)
        assert recovery(checker).outcome is RecoveryOutcome.TIMEOUT
        await asyncio.sleep(600)
        assert recovery(checker).outcome is RecoveryOutcome.HUNG
        assert recovery(checker).state is RecoveryState.GAVE_UP
        assert len(begun) == 1
        assert other.calls > 500
        assert redis.calls > 500
    assert cancelled


@pytest.mark.virtual_time
async def test_the_steps_of_a_ladder_are_taken_in_turn() -> None:
    """Each where the former did not help; the last one again, if there are attempts left."""
    redis = broken()
    first, second = Action(), Action()
    async with virtual_checker() as checker:
        checker.add("redis", redis, recover=ladder(first, second))
        await asyncio.sleep(600)
    assert (len(first.taken), len(second.taken)) == (1, 2)
    assert first.taken < second.taken


@pytest.mark.virtual_time
async def test_a_component_that_was_up_again_begins_with_the_first_step() -> None:
    """A dependency that blinks twice calls twice for what helped, and not for the last resort; three times in all."""
    redis = Switch()
    first, second = Action(mends=redis), Action()
    async with virtual_checker() as checker:
        checker.add("redis", redis, recover=ladder(first, second))
        for _ in range(4):
            await asyncio.sleep(160)
            redis.error = ConnectionError("refused")
        await asyncio.sleep(20)
        assert (len(first.taken), second.taken) == (3, [])
        assert recovery(checker).state is RecoveryState.GAVE_UP


@pytest.mark.virtual_time
async def test_an_action_may_want_a_failure_that_lasts_and_waiting_costs_no_attempt() -> None:
    """What comes back in time is left alone, however often it fails."""
    redis = Switch()
    last = Action()
    last.failing_for = 120.0  # type: ignore[attr-defined]
    async with virtual_checker() as checker:
        checker.add("redis", redis, recover=last)
        for _ in range(4):
            redis.error = ConnectionError("refused")
            await asyncio.sleep(100)
            redis.error = None
            await asyncio.sleep(20)
        assert last.taken == []
        redis.error = ConnectionError("refused")
        begun = now()
        await asyncio.sleep(140)
        assert 120 <= last.taken[0] - begun <= 140
        assert recovery(checker).attempts == 1


@pytest.mark.virtual_time
async def test_a_hung_step_does_not_hold_up_the_next() -> None:
    """The last resort is needed most where the first one hangs."""
    last = Action()
    async with virtual_checker() as checker:
        checker.add("redis", broken(), recover=ladder(swallowing(), last), recover_within=1.0)
        await asyncio.sleep(60)
        assert len(last.taken) == 1


@pytest.mark.parametrize(
    ("act", "outcome", "message"),
    [
        (Action(error=ConnectionError("no amqp://guest:hunter2@mq")), "failed", "ConnectionError: no amqp://***@mq"),
        (Action(error=SystemExit(3)), "failed", "SystemExit: 3"),
        (Action(error=asyncio.CancelledError()), "failed", "CancelledError: "),
        (Action(seconds=60), "timeout", None),
    ],
)
@pytest.mark.virtual_time
async def test_an_action_that_fails_is_an_outcome_and_no_more(act: Action, outcome: str, message: str | None) -> None:
    """Redacted as every message; the check and its neighbours go on."""
    redis = broken()
    async with virtual_checker() as checker:
        checker.add("redis", redis, recover=act, recover_within=30.0)
        await asyncio.sleep(100)
        assert (recovery(checker).outcome, recovery(checker).message) == (outcome, message)
        assert redis.calls > 5


async def test_a_plain_function_runs_in_a_thread() -> None:
    """It may block, and what it returns does not matter, unless it is False."""
    loop_thread = threading.current_thread()
    seen: list[threading.Thread] = []
    redis = broken()

    def reconnect() -> str:
        seen.append(threading.current_thread())
        redis.error = None
        return "reconnected"

    async with Checker() as checker:
        checker.add("redis", redis, recover=reconnect)
        checker.add("other", broken(), recover=lambda: False)
        await eventually(lambda: checker.report().components["redis"].status is Status.PASS)
        await eventually(lambda: recovery(checker, "other").outcome is RecoveryOutcome.FAILED)
        assert recovery(checker, "other").message == "returned False"
    assert seen != [loop_thread]


async def test_a_thread_that_hangs_in_an_action_holds_up_nobody() -> None:
    """Its deadline is told of in time, and other checks that need threads have theirs."""
    stuck = blocking()
    async with Checker(interval=0.05) as checker:
        checker.add("redis", broken(), recover=stuck, recover_within=0.05)
        checker.add("other", lambda: None)
        await eventually(lambda: recovery(checker).outcome is RecoveryOutcome.TIMEOUT)
        ran = checker.report().components["other"].result
        await eventually(lambda: checker.report().components["other"].result is not ran)
        assert checker.report().components["other"].status is Status.PASS
        stuck.let_go.set()
    assert stuck.calls == 1


@pytest.mark.virtual_time
async def test_removing_and_closing_end_an_action() -> None:
    """Nothing of it stays behind, and nothing comes of it."""
    act = Action(seconds=1000)
    checker = virtual_checker()
    async with checker:
        checker.add("redis", broken(), recover=act, recover_within=2000.0)
        await asyncio.sleep(5)
        assert act.running == 1
        checker.remove("redis")
        await asyncio.sleep(0.01)
        assert act.running == 0
        checker.add("redis", broken(), recover=act, recover_within=2000.0)
        await asyncio.sleep(5)
        assert act.running == 1
    assert act.running == 0
    assert recovery(checker).state is RecoveryState.WAITING


class Follower:
    """A worker among others; who leads is said from outside."""

    leads = False

    def wait(self, *_: object) -> float:
        """Wait for nobody."""
        return 0.0

    def spares(self, *_: object) -> bool:
        """Let each run count."""
        return False

    def ran(self, *_: object) -> None:
        """Tell nobody."""


@pytest.mark.virtual_time
async def test_of_several_workers_the_leader_alone_mends_what_is_shared() -> None:
    """The others see the same failures, and do nothing."""
    shared, own = Action(), Action()
    worker = Follower()
    async with virtual_checker() as checker:
        checker.add("redis", broken(), recover=shared, shared=True)
        checker.add("own", broken(), recover=own)
        checker.engine.share(worker)
        await asyncio.sleep(60)
        assert (len(shared.taken), len(own.taken)) == (0, 2)
        worker.leads = True
        await asyncio.sleep(60)
        assert len(shared.taken) == 2


async def test_every_sink_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    """Metrics, the log, and the report of those who may see everything."""
    reader = InMemoryMetricReader()
    checker = Checker(meter_provider=MeterProvider([reader]))
    checker.add("redis", broken(), recover=Action(error=OSError("still refused")))
    checker.add("plain", broken())
    app = checker.asgi(details="full")
    async with checker, AsyncClient(transport=ASGITransport(app), base_url="http://orders") as client:
        await eventually(lambda: recovery(checker).state is RecoveryState.WAITING)
        entry = json.loads((await client.get("/readyz")).content)["checks"]["redis"][0]["recovery"]
        entry.pop("time")
        assert entry == {
            "state": "waiting",
            "attempts": 1,
            "action": "Action",
            "outcome": "failed",
            "output": "OSError: still refused",
        }
        assert "recovery" not in json.loads((await client.get("/readyz")).content)["checks"]["plain"][0]
        assert (
            b"recovery"
            not in (
                await AsyncClient(transport=ASGITransport(checker.asgi()), base_url="http://o").get("/readyz")
            ).content
        )
        found = {key: point.value for key, point in series_of(reader).items() if "recovery" in key[0]}

    redis = ("component", "redis")
    assert found == {
        ("otel_health.recovery.attempts", (redis, ("outcome", "failed"))): 1,
        ("otel_health.recovery.state", (redis, ("state", "idle"))): 0,
        ("otel_health.recovery.state", (redis, ("state", "running"))): 0,
        ("otel_health.recovery.state", (redis, ("state", "waiting"))): 1,
        ("otel_health.recovery.state", (redis, ("state", "gave_up"))): 0,
    }
    lines = [record for record in caplog.records if "recovery" in record.getMessage()]
    assert [(line.levelname, line.getMessage()) for line in lines] == [
        ("WARNING", "redis: recovery attempt 1 of 3 begins: Action"),
        ("ERROR", "redis: the recovery attempt has ended as failed: OSError: still refused"),
    ]
    assert vars(lines[1])["otel_health.component"] == "redis"
    assert vars(lines[1])["otel_health.outcome"] == "failed"


@pytest.mark.parametrize(
    ("recover", "refused", "culprit"),
    [
        (3, TypeError, "check 'redis': recover is a int"),
        ([print], TypeError, "recover is a list; pass a function, not its result, or a ladder of several"),
        (lambda client: client, TypeError, "needs client, and a recovery action takes no arguments"),
    ],
)
def test_what_is_no_action_is_refused(recover: Any, refused: type[Exception], culprit: str) -> None:
    """By the name of its check, where it is written."""
    with pytest.raises(refused, match=culprit):
        Checker().add("redis", Switch(), recover=recover)


@pytest.mark.parametrize("steps", [0, 4])
def test_a_ladder_has_as_many_steps_as_there_are_attempts(steps: int) -> None:
    """A step that could never be taken is a mistake."""
    actions: list[Callable[[], object]] = [Action()] * steps
    with pytest.raises(ValueError, match=f"a ladder of {steps} steps: give it 1 to 3"):
        ladder(*actions)


def test_its_time_has_to_make_sense() -> None:
    """As every other number of seconds."""
    with pytest.raises(ValueError, match="recover_within=0"):
        Checker().add("redis", Switch(), recover=Action(), recover_within=0)
