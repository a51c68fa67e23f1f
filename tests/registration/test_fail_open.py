"""Failing open: a replica that fails alone goes, and where all fail the same, none does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import pytest

from otel_health import Checker, Status, Transition
from otel_health.registration import ConsulRegistry, Instance, Registration, Registry, Standing, fail_open
from otel_health.registration.findings import Findings
from tests.doubles import Switch, eventually, passing
from tests.registration.places import Place

WITHIN = 10.0
"""Seconds, on a machine that is busy."""


class Replica:
    """One replica of a service, with a dependency that all of them have."""

    def __init__(self, place: Place, number: int, registry: Registry | None = None) -> None:
        self.dependency = Switch()
        self.hangs = False
        self.seen: list[Status] = []
        self.checker = Checker(interval=0.2, timeout=2.0)
        self.registration = place.registration(self.checker, registry, port=8000 + number)
        self.checker.add("postgres", fail_open("postgres", self._postgres, self.registration))
        self.checker.subscribe(self._turned)

    async def _postgres(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await self.dependency()

    def _turned(self, transition: Transition) -> None:
        self.seen.append(transition.after)

    @property
    def status(self) -> str:
        """What readyz says."""
        return self.checker.report().status.value

    def breaks(self) -> None:
        """Its dependency fails, as this replica finds."""
        self.dependency.error = ConnectionError("refused")

    def heals(self) -> None:
        """Its dependency works again."""
        self.dependency.error = None


@asynccontextmanager
async def replicas(place: Place, number: int) -> AsyncIterator[list[Replica]]:
    """So many replicas, all of them registered and well."""
    made = [Replica(place, each) for each in range(number)]
    async with AsyncExitStack() as stack:
        for replica in made:
            await stack.enter_async_context(replica.checker)
            await stack.enter_async_context(replica.registration)
        await eventually(lambda: all(each.registration.is_registered for each in made), WITHIN)
        yield made


async def become(made: list[Replica], *expected: str) -> None:
    """Wait until the replicas say this."""
    await eventually(lambda: [each.status for each in made] == list(expected), WITHIN)


async def test_one_that_fails_alone_becomes_unready(place: Place) -> None:
    """There are better replicas: its traffic goes to them, and comes back with its dependency."""
    async with replicas(place, 3) as made:
        made[0].breaks()
        await become(made, "fail", "pass", "pass")
        assert made[0].checker.report().components["postgres"].error_type == "failed"
        made[0].heals()
        await become(made, "pass", "pass", "pass")


async def test_where_all_fail_none_goes_and_the_last_never_went(place: Place) -> None:
    """One after the other fails: they go, until the last would have to, which stays; and then all come back."""
    async with replicas(place, 3) as made:
        for number, replica in enumerate(made[:-1], 1):
            replica.breaks()
            await become(made, *["fail"] * number, *["pass"] * (3 - number))
        made[-1].breaks()
        await become(made, "warn", "warn", "warn")
        message = made[-1].checker.report().components["postgres"].result
        await asyncio.sleep(1.0)

        assert [each.status for each in made] == ["warn"] * 3, "what all find does not change by being told"
        assert made[-1].seen == [Status.PASS, Status.WARN]
        assert message is not None
        assert message.message == "fails in all 3 replicas, so that none is better: refused"


async def test_all_at_once_leave_somebody_ready(place: Place) -> None:
    """Each tells before it asks, so not every one of them can find itself alone."""
    async with replicas(place, 2) as made:
        for replica in made:
            replica.breaks()
        await become(made, "warn", "warn")

        assert any(each.seen[1] is Status.WARN for each in made)


async def test_when_one_recovers_the_others_are_unready(place: Place) -> None:
    """Now there is a better replica."""
    async with replicas(place, 2) as made:
        for replica in made:
            replica.breaks()
        await become(made, "warn", "warn")
        made[0].heals()
        await become(made, "pass", "fail")


async def test_a_dependency_that_hangs_is_one_that_fails(place: Place) -> None:
    """The check has part of the time, so that there is some left to ask the others, though that takes a while."""
    async with replicas(place, 2) as made:
        place.wire.delay = 0.1
        for replica in made:
            replica.hangs = True
        await become(made, "warn", "warn")
        made[0].hangs = False
        await become(made, "pass", "fail")


async def test_a_single_replica_fails_as_ever(place: Place) -> None:
    """There is nobody to compare with."""
    async with replicas(place, 1) as made:
        made[0].breaks()
        await become(made, "fail")


async def test_one_that_says_nothing_is_no_proof(place: Place) -> None:
    """A replica of an older version does not tell: whether it fails is not known."""
    other = Checker()
    other.gate("warm", ready=True)
    older = place.registration(other, port=9000)
    async with other, older, replicas(place, 1) as made:
        await eventually(lambda: older.is_registered, WITHIN)
        made[0].breaks()
        await become(made, "fail")


async def test_one_in_maintenance_does_not_count(place: Place) -> None:
    """It takes no traffic, so that it is no better replica."""
    async with replicas(place, 3) as made:
        made[0].registration.start_maintenance("disk")
        made[1].breaks()
        made[2].breaks()
        await eventually(lambda: [each.status for each in made[1:]] == ["warn", "warn"], WITHIN)


async def test_one_that_is_gone_does_not_count(place: Place) -> None:
    """It was well when it was last heard of, and that is out of date."""
    ghost = Instance(place.service, f"{place.service}-ghost", "127.0.0.1", 9000)
    async with replicas(place, 2) as made:
        await place.registry().register(ghost, Standing(Status.PASS, dependencies={"postgres": Status.PASS}))
        for replica in made:
            replica.breaks()
        await become(made, "fail", "fail")
        await become(made, "warn", "warn")


def test_a_finding_is_told_for_as_long_as_its_check_is_believed() -> None:
    """Two intervals and a timeout: then nobody stands by it."""
    now, changes = [0.0], []
    checker = Checker(interval=10.0, timeout=3.0, clock=lambda: now[0])
    findings = Findings(checker, lambda: changes.append(now[0]))
    findings.share("postgres")
    findings.share("redis")
    checker.add("postgres", passing())

    findings.found("postgres", Status.FAIL)
    now[0] = 5.0
    findings.found("postgres", Status.FAIL)
    now[0] = 27.9
    assert findings.current() == {"postgres": Status.FAIL}
    now[0] = 28.0
    assert findings.current() == {}
    findings.found("postgres", Status.PASS)
    checker.remove("postgres")
    assert findings.current() == {}
    assert changes == [0.0, 28.0]


@pytest.mark.parametrize("trouble", ["refuses", "frozen"])
async def test_without_a_registry_it_is_as_without_this(place: Place, trouble: str) -> None:
    """Nobody can be asked: what fails here fails, within its own deadline."""
    async with replicas(place, 2) as made:
        for replica in made:
            replica.breaks()
        await become(made, "warn", "warn")
        setattr(place.wire, trouble, True)
        begun = monotonic()
        await become(made, "fail", "fail")
        assert monotonic() - begun < 8
        setattr(place.wire, trouble, False)
        await become(made, "warn", "warn")


def test_more_than_a_registry_can_hold_is_refused() -> None:
    """The eighth dependency is refused where it is written."""
    registration = Registration(Checker(), ConsulRegistry(), service="orders", address="127.0.0.1", port=8000)
    for number in range(7):
        fail_open(f"dependency-{number}", Switch(), registration)
    fail_open("dependency-6", Switch(), registration)
    with pytest.raises(ValueError, match="'dependency-7' is one dependency too many"):
        fail_open("dependency-7", Switch(), registration)


async def test_a_dependency_that_no_check_is_named_after_is_refused() -> None:
    """How long a finding is believed is said by its check."""
    checker = Checker()
    registration = Registration(checker, ConsulRegistry(), service="orders", address="127.0.0.1", port=8000)
    checker.add("database", fail_open("postgres", Switch(), registration))
    async with checker:
        with pytest.raises(ValueError, match="fail_open watches 'postgres', and no check has that name"):
            await registration.__aenter__()
