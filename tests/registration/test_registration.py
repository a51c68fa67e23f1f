"""One instance in each registry: it is told of when it is ready, follows the state, comes back, and leaves for good."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker, Degraded, Status
from otel_health.check import Check
from otel_health.lifecycle import Drain
from otel_health.registration import ConsulRegistry, EtcdRegistry, Registration
from tests.doubles import Switch, eventually, passing
from tests.registration.places import TTL, Place
from tests.soak.figure import series_of

WITHIN = 1.0
"""Seconds in which the registry shows what has changed, on a machine that is not busy."""


async def shows(place: Place, expected: list[str], seconds: float = 10.0) -> float:
    """Wait until the registry shows so many members, as they feel; how long that took."""
    begun = monotonic()
    while (seen := await place.statuses()) != expected:
        assert monotonic() - begun < seconds, f"the registry shows {seen}"
        await asyncio.sleep(0.01)
    return monotonic() - begun


async def test_an_instance_is_registered_when_it_is_first_ready_and_not_before(place: Place) -> None:
    """A slow start is nobody's target; then it is there, with all that readers want to know."""
    checker = Checker()
    gate = checker.gate("warm")
    registration = place.registration(checker, tags=["v1"], meta={"zone": "b"})

    async with checker, registration:
        await asyncio.sleep(0.2)
        assert (await place.members(), place.wire.taken) == ([], 0)
        gate.open()
        await shows(place, ["pass"])
        (member,) = await place.members()

    assert (member.instance, member.fresh, member.standing.output) == (registration.instance, True, "")
    assert (member.instance.id, member.instance.tags) == (f"{place.service}-127.0.0.1-8000", ("v1",))


async def test_the_registry_follows_the_state(place: Place) -> None:
    """Pass, warn, fail and back: each is shown at once, with the components' names and the types of their errors."""
    switch = Switch()
    checker = Checker(interval=3600)
    checker.add("postgres", switch)

    async def turns(error: BaseException | None, status: str) -> str:
        switch.error = error
        checker.renew("postgres")
        assert await shows(place, [status]) < WITHIN + 1
        return (await place.members())[0].standing.output

    async with checker, place.registration(checker):
        await shows(place, ["pass"])
        assert await turns(ConnectionError("refused by 10.0.0.7"), "fail") == "postgres: failed"
        assert await turns(Degraded("slow", lag=3), "warn") == "postgres: degraded"
        assert await turns(None, "pass") == ""


class Never:
    """Has no shared check run again, as if the scheduler had died."""

    leads = False

    def wait(self, check: Check, finished: float) -> float:  # noqa: ARG002 - the protocol's.
        return 0.0 if finished == float("-inf") else 3600.0

    def spares(self, check: Check) -> bool:  # noqa: ARG002 - as above.
        return False

    def ran(self, check: Check) -> None: ...


async def test_a_verdict_that_expires_is_told_of_though_nobody_looks(place: Place) -> None:
    """No transition comes of silence: the registration itself looks when a verdict is due to expire."""
    checker = Checker(interval=0.2, timeout=0.2)
    checker.add("postgres", passing(), shared=True)
    async with checker, place.registration(checker, place.registry(ttl=30)):
        checker.engine.share(Never())

        await shows(place, ["pass"])
        await shows(place, ["fail"], seconds=5)

        assert (await place.members())[0].standing.output == "postgres: stale"


async def test_a_registration_that_is_lost_comes_back_with_the_next_heartbeat(place: Place) -> None:
    """The registry has been started anew and knows nothing: a third of the TTL later it does."""
    checker = Checker()
    registration = place.registration(checker)
    async with checker, registration:
        await shows(place, ["pass"])
        await place.forget(registration)
        assert await place.members() == []

        assert await shows(place, ["pass"]) < TTL / 3 + WITHIN


async def test_heartbeats_keep_it_alive(place: Place) -> None:
    """Nothing changes for longer than the TTL, and it is still there; without heartbeats it would not be."""
    checker = Checker()
    async with checker, place.registration(checker):
        await shows(place, ["pass"])
        for _ in range(24):
            await asyncio.sleep(0.1)
            assert [(each.fresh, each.standing.status) for each in await place.members()] == [(True, "pass")]


@pytest.mark.parametrize("trouble", ["refuses", "frozen"])
async def test_an_outage_is_survived_and_told_of_once(
    place: Place, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For longer than the TTL there is no registry: the application is as it was, and afterwards all is well again."""
    caplog.set_level(logging.INFO)
    checker = Checker()
    checker.add("postgres", passing())
    registration = place.registration(checker, timeout=0.3)
    async with checker, registration:
        await eventually(lambda: registration.is_registered)
        setattr(place.wire, trouble, True)
        await eventually(lambda: not registration.is_registered, TTL + 5)
        await asyncio.sleep(0.5)
        taken = place.wire.taken
        assert checker.report().status is Status.PASS
        setattr(place.wire, trouble, False)
        await shows(place, ["pass"], seconds=12)
        assert [each.fresh for each in await place.members()] == [True]
        await eventually(lambda: registration.is_registered)

    told = [record.getMessage() for record in caplog.records if registration.instance.id in record.getMessage()]
    assert [message.split(registration.instance.id)[1].split()[:2] for message in told] == [
        ["is", "registered"],
        ["cannot", "be"],
        ["is", "registered"],
        ["is", "withdrawn"],
    ]
    assert taken < 40, "a registry that is gone is left alone more and more"


async def test_withdrawal_is_final(place: Place) -> None:
    """Nothing that happens afterwards brings the instance back; another entry does."""
    checker = Checker()
    gate = checker.gate("warm", ready=True)
    registration = place.registration(checker)
    async with checker:
        async with registration:
            await shows(place, ["pass"])
            await registration.withdraw()
            assert (await place.members(), registration.is_registered) == ([], False)
            gate.close()
            gate.open()
            registration.start_maintenance("disk")
            await asyncio.sleep(TTL / 3 + 0.3)
            assert await place.members() == []
            await registration.withdraw()
        registration.end_maintenance()
        async with registration:
            await shows(place, ["pass"])
    assert await place.members() == []


async def test_a_drain_withdraws_it_first(place: Place) -> None:
    """While the service still serves, nobody is sent there any more."""
    checker = Checker()
    drain = Drain(checker, delay=5.0)
    async with checker, drain, place.registration(checker, drain=drain):
        await shows(place, ["pass"])

        drain.begin()

        assert await shows(place, []) < WITHIN + 1


async def test_what_drains_already_is_not_registered(place: Place) -> None:
    """A service that was told to end while it started is nobody's target."""
    checker = Checker()
    drain = Drain(checker, probes={"traffic"})
    async with checker, drain:
        drain.begin()
        async with place.registration(checker, drain=drain):
            await asyncio.sleep(0.3)
            assert place.wire.taken == 0


@pytest.mark.parametrize("trouble", ["refuses", "frozen"])
async def test_withdrawing_from_a_registry_that_is_gone_ends_in_time(
    place: Place, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exit waits for no registry: the TTL will do it, and the log says so."""
    checker = Checker()
    registration = place.registration(checker, timeout=0.4)
    async with checker:
        await registration.__aenter__()
        await eventually(lambda: registration.is_registered)
        setattr(place.wire, trouble, True)
        begun = monotonic()

        await registration.__aexit__(None, None, None)

        assert monotonic() - begun < 1.0
    assert "could not be withdrawn" in caplog.text
    setattr(place.wire, trouble, False)
    deadline = monotonic() + TTL + 8
    while [each for each in await place.members() if each.fresh]:
        assert monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_maintenance_is_shown_and_ends(place: Place) -> None:
    """An operator takes the instance out of traffic; it stays registered, and its state is still told."""
    checker = Checker()
    gate = checker.gate("warm", ready=True)
    registration = place.registration(checker)

    async def maintained(reason: str | None) -> Status:
        deadline = monotonic() + 5
        while (members := await place.members())[0].standing.maintenance != reason:
            assert monotonic() < deadline
            await asyncio.sleep(0.01)
        return members[0].standing.status

    async with checker, registration:
        await shows(place, ["pass"])
        registration.start_maintenance("a disk is changed, password=hunter2")
        assert await maintained("a disk is changed, password=***") is Status.PASS
        gate.close()
        await shows(place, ["fail"])
        await place.forget(registration)
        await shows(place, ["fail"])
        assert await maintained("a disk is changed, password=***") is Status.FAIL
        assert checker.report().status is Status.FAIL
        registration.end_maintenance()
        assert await maintained(None) is Status.FAIL
    with pytest.raises(TypeError, match="a sentence for readers, not int"):
        registration.start_maintenance(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ("status", ""),
        ("names", "postgres: failed"),
        ("full", "postgres: ConnectionError: postgresql://***@db refused"),
    ],
)
async def test_the_output_says_what_may_be_told(place: Place, details: Any, expected: str) -> None:
    """Names and types of errors, messages only where one asks for them, and never a secret."""
    checker = Checker(interval=3600)
    switch = Switch()
    checker.add("postgres", switch)
    async with checker, place.registration(checker, details=details):
        await shows(place, ["pass"])
        switch.error = ConnectionError("postgresql://orders:hunter2@db refused")
        checker.renew("postgres")
        await shows(place, ["fail"])

        assert (await place.members())[0].standing.output == expected


async def test_the_output_is_capped(place: Place) -> None:
    """A thousand components that fail fill no registry."""
    checker = Checker()
    gates = [checker.gate(f"component-{number}", ready=True) for number in range(1000)]
    async with checker, place.registration(checker):
        await shows(place, ["pass"])
        for gate in gates:
            gate.close()
        await shows(place, ["fail"])

        assert len((await place.members())[0].standing.output) <= 4096


async def test_what_never_was_ready_is_never_told_of(place: Place) -> None:
    """There is nothing to withdraw, and no registry is needed to end."""
    checker = Checker()
    checker.gate("warm")
    async with checker, place.registration(checker):
        pass

    assert place.wire.taken == 0


async def test_it_follows_a_leader_only(place: Place) -> None:
    """Of several workers at one port, one speaks; when it takes over, it is told of within a second."""

    class Workers:
        leads = False

    workers = Workers()
    checker = Checker()
    async with checker, place.registration(checker, workers=workers):
        await asyncio.sleep(0.2)
        assert place.wire.taken == 0
        workers.leads = True
        assert await shows(place, ["pass"]) < WITHIN + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda checker: _made(checker, service="a b"), "'a b' cannot name a service"),
        (lambda checker: _made(checker, address="http://me"), "the host is no host name"),
        (lambda checker: _made(checker, address="0.0.0.0"), "is what a server binds to, and nobody can reach it"),
        (lambda checker: _made(checker, address="::"), "is what a server binds to, and nobody can reach it"),
        (lambda checker: _made(checker, port=0), "port=0 must be a whole number"),
        (lambda checker: _made(checker, id="a/b"), "id='a/b' must be up to 128 letters"),
        (lambda checker: _made(checker, tags="v1"), "tags='v1' must be a list of printable words"),
        (lambda checker: _made(checker, meta={"a b": "c"}), "'a b' cannot name metadata"),
        (lambda checker: _made(checker, meta={"a": "c" * 513}), "must be a string of at most 512 characters"),
        (lambda checker: _made(checker, meta={f"a{n}": "" for n in range(33)}), "33 names in meta"),
        (lambda checker: _made(checker, details="all"), "details='all' must be one of 'status', 'names', 'full'"),
        (lambda checker: _made(checker, timeout=0), "timeout=0 must be a positive, finite number of seconds"),
        (lambda _: ConsulRegistry("http://127.0.0.1:8500", ttl=0), "ttl=0 must be"),
        (lambda _: ConsulRegistry("http://127.0.0.1:8500", deregister_after=30), "less than the 60 s that Consul"),
        (lambda _: ConsulRegistry("http://127.0.0.1:8500/v1"), "has a path or a query; give the address alone"),
        (lambda _: ConsulRegistry("http://me:pw@127.0.0.1:8500"), "holds a user or password"),
        (lambda _: EtcdRegistry(), "give the URL of etcd"),
        (lambda _: EtcdRegistry("http://127.0.0.1:2379", prefix=""), "prefix='' must be a string"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make: Callable[[Checker], Any], message: str) -> None:
    """An error of configuration is none of the registry's answers."""
    with pytest.raises(ValueError, match=message):
        make(Checker())


def test_the_address_of_a_registry_is_no_registry() -> None:
    """Whoever passes it reads what to make of it."""
    with pytest.raises(TypeError, match="a str is no registry; pass a ConsulRegistry or an EtcdRegistry"):
        Registration(Checker(), "http://consul:8500", service="orders", address="10.0.0.7", port=8000)  # type: ignore[arg-type]


def _made(checker: Checker, **options: Any) -> Registration:
    given = {"service": "orders", "address": "127.0.0.1", "port": 8000, **options}
    return Registration(checker, ConsulRegistry(), **given)


async def test_it_needs_an_open_checker_and_is_entered_once() -> None:
    """On demand nothing would ever be told; and two tasks would contradict each other."""
    checker = Checker()
    registration = _made(checker)
    with pytest.raises(RuntimeError, match="Registration needs an open Checker"):
        await registration.__aenter__()
    async with checker:
        with pytest.raises(ValueError, match="no check is registered for a probe 'traffic'"):
            await _made(checker, probe="traffic").__aenter__()
        async with registration:
            with pytest.raises(RuntimeError, match="entered already"):
                await registration.__aenter__()
    await registration.withdraw()


async def test_the_registration_is_measured(place: Place) -> None:
    """1 while the registry holds the instance, 0 while it does not, nothing once this is left; failures are counted."""
    reader = InMemoryMetricReader()
    checker = Checker(meter_provider=MeterProvider([reader]))
    registration = place.registration(checker, timeout=0.3)
    labels = (("registry", registration.registry.name), ("service", place.service))

    def up() -> object:
        point = series_of(reader).get(("otel_health.registration.up", labels))
        return None if point is None else point.value

    async with checker:
        async with registration:
            assert up() == 0
            await eventually(lambda: registration.is_registered)
            assert up() == 1
            place.wire.refuses = True
            await eventually(lambda: not registration.is_registered, TTL + 5)
            assert up() == 0
            failures = [
                point for (name, _), point in series_of(reader).items() if name.endswith("registration.failures")
            ]
            assert [dict(point.attributes)["error_type"] for point in failures] == ["ConnectionResetError"]
            place.wire.refuses = False
        assert up() is None
