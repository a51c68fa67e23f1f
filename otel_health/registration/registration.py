"""The registration of one instance: it follows the state, outlives the registry's troubles, and ends for good."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self

from otel_health import Checker, names
from otel_health.check import READYZ, require_seconds
from otel_health.forks import leave, tell_of_forks
from otel_health.http.render import DETAILS, Details
from otel_health.lifecycle.drain import Drain
from otel_health.lifecycle.loop_monitor import require_open
from otel_health.redaction import describe, redact
from otel_health.registration.calls import Calls
from otel_health.registration.findings import Findings
from otel_health.registration.pace import PATIENCE, Pace
from otel_health.registration.registry import (
    Member,
    NotRegistered,
    Refused,
    Registry,
    Standing,
    in_words,
    require_instance,
)
from otel_health.report import Status
from otel_health.threads import call_on

SPACING: Final = 0.2
"""Seconds, at least, between two calls that bring news: of what flaps is told five times a second."""

LOOK_SECONDS: Final = 0.5
"""How often one that does not speak looks whether it should."""

WITHDRAWALS: Final = 0.1
"""Seconds, at most, between two attempts to withdraw."""

COMPLAINTS: Final = 1 / 3
"""Part of the TTL for which a registry may fail before that is logged."""


class Leading(Protocol):
    """What is asked of `Workers`."""

    @property
    def leads(self) -> bool:
        """Whether this worker speaks for all."""


class Registration:
    """Keeps one instance of a service in a registry, from when it is first ready until it is withdrawn.

    The registry is told of a change of the state at once, and between changes three times in its TTL. One that is
    down, slow or forgetful is called until it takes what it is told, and never changes the application's own health.
    Enter it inside the open Checker. The instance is withdrawn, for good, when the drain begins, and at the latest
    when this is left; another entry begins anew.

    Args:
        checker: Whose state is told; it must be open.
        registry: Where: a `ConsulRegistry`, an `EtcdRegistry`, or one of your own.
        service: The service's name.
        address: Where others reach this instance: an address or a host name.
        port: The port.
        id: Tells the instances of a service apart; by default it is made of service, address and port, so that an
            instance that is started again replaces what is left of it.
        tags: Words that readers of the registry look for.
        meta: What else they should know.
        probe: Whose status is told.
        details: What the registry, and so anyone who reads it, may see: `"status"`, `"names"` (and error types) or
            `"full"` (redacted messages).
        drain: Whose beginning withdraws the instance.
        workers: The open `Workers` of this process, where there are several: the one that leads speaks for all.
        timeout: Seconds that one call to the registry may take, and the withdrawal as a whole.

    Raises:
        TypeError: The registry is none.
        ValueError: An argument makes no sense.

    Example:
        >>> registration = Registration(
        ...     checker, ConsulRegistry(), service="orders", address="10.0.0.7", port=8000, drain=drain
        ... )
        >>> async with checker, drain, registration:
        ...     await serve()
    """

    def __init__(
        self,
        checker: Checker,
        registry: Registry,
        *,
        service: str,
        address: str,
        port: int,
        id: str | None = None,  # noqa: A002 - what registries call it.
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        probe: str = READYZ,
        details: Details = "names",
        drain: Drain | None = None,
        workers: Leading | None = None,
        timeout: float = 1.5,
    ) -> None:
        if not callable(getattr(registry, "register", None)):
            raise TypeError(
                f"Registration: a {type(registry).__name__} is no registry; pass a ConsulRegistry or an EtcdRegistry, "
                "or one of your own"
            )
        require_seconds("Registration", "timeout", timeout)
        if details not in DETAILS:
            raise ValueError(f"Registration: details={details!r} must be one of {', '.join(map(repr, DETAILS))}")
        self.instance = require_instance(service, id, address=address, port=port, tags=tags, meta=meta)
        self.registry = registry
        self.attributes = {names.REGISTRY: registry.name, names.SERVICE: service}
        self._checker = checker
        self._probe = probe
        self._details = details
        self._drain = drain
        self._workers = workers
        self._timeout = timeout
        self._calls = Calls(checker.now)
        self._maintenance: str | None = None
        self.findings = Findings(checker, lambda: self._news.set())
        """What the registry, and so its peers, are told of dependencies: see `fail_open`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._reset()
        if drain is not None:
            drain.hook(self.withdraw)
        tell_of_forks(self)

    def _reset(self) -> None:
        self._pace = Pace(self.registry.ttl, self._timeout, self._checker.now)
        self._news = asyncio.Event()
        self._leaving = asyncio.Event()
        self._leave_by = float("inf")
        self._was_ready = False
        self._attempted = False
        """Whether the registry may have heard of the instance."""
        self._unanswered = False
        """Whether nobody has answered the last call that told of it."""
        self._told: Standing | None = None
        """What the registry was told last; None where it does not know the instance."""
        self._heard = asyncio.Event()
        """Set when the registry has taken what it was told, and made anew."""
        self._complained = False
        self._cut: asyncio.TimerHandle | None = None
        """Ends what is under way when it is time to withdraw."""

    @property
    def is_registered(self) -> bool:
        """Whether the registry holds the instance, as far as this side can know."""
        return self._told is not None and self._checker.now() < self._pace.believed_until

    @property
    def may_be_known(self) -> bool:
        """Whether the registry may have heard of the instance, and its withdrawal is not over."""
        return self._attempted and self._task is not None and not self._task.done()

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("this Registration is entered already; use one for each registry")
        require_open(self._checker, "Registration")
        self._checker.report(self._probe)  # One that nobody knows is refused here, not in the task.
        self.findings.require_checks()
        self._reset()
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = self._checker.subscribe(lambda _: self._news.set())
        self._checker.engine.registrations.append(self)
        self._task = self._loop.create_task(self._live(), name="otel_health-registration")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.withdraw()
        finally:
            self._unsubscribe()
            self._checker.engine.registrations.remove(self)
            if self._task is not None:
                self._task.cancel()
            self._task = self._loop = None
            await self._calls.close()

    async def withdraw(self) -> None:
        """Take the instance out of the registry for good: nothing brings it back before the next entry.

        It ends within `timeout`, whatever the registry does. One that was not reached forgets the instance after
        its TTL.
        """
        if self._task is None or self._loop is None:
            return
        if not self._leaving.is_set():
            self._leave_by = self._checker.now() + self._timeout
            # What is under way may be about to be heard, and has to be over before it is taken back.
            self._cut = self._loop.call_later(self._timeout / 2, self._calls.drop)
            self._leaving.set()
            self._news.set()
        await asyncio.wait((self._task,))
        self._task.result()

    def start_maintenance(self, reason: str) -> None:
        """Have the registry send nobody here, although the instance stays registered; from any thread.

        Raises:
            TypeError: The reason is no string.
        """
        if not isinstance(reason, str):
            raise TypeError(f"the reason for maintenance is a sentence for readers, not {type(reason).__name__}")
        self._maintenance = redact(reason)
        call_on(self._loop, self._news.set)

    def end_maintenance(self) -> None:
        """Have the registry send others here again; from any thread."""
        self._maintenance = None
        call_on(self._loop, self._news.set)

    async def told_of(self, dependency: str, status: Status) -> None:
        """Wait until the registry has taken what was found of a dependency.

        Raises:
            NotRegistered: It does not know this instance.
        """
        while self._told is None or self._told.dependencies.get(dependency) is not status:
            if not self.is_registered:
                raise NotRegistered("the others know nothing of this replica")
            await self._heard.wait()

    async def peers(self) -> list[Member]:
        """Return the other instances of this service that are alive and take traffic, as the registry knows them."""
        members = await self.registry.members(self.instance.service)
        return [
            member
            for member in members
            if member.instance.id != self.instance.id and member.fresh and member.standing.maintenance is None
        ]

    def forked(self) -> None:
        """Be left, in a forked child: the registration is the parent's."""
        if self._loop is not None:
            leave((self._loop, self._task, self._news, self._leaving))
            self._checker.engine.registrations.remove(self)
            self._task = self._loop = None
            self._reset()

    # One task lives from the entry to the withdrawal, and nobody else writes to the registry.

    async def _live(self) -> None:
        while not self._leaving.is_set():
            self._news.clear()
            await _wait(self._news, await self._look())
        if self._cut is not None:
            self._cut.cancel()
        withdrawn = not self._attempted
        while not withdrawn:
            withdrawn = await self._withdrawn()

    async def _look(self) -> float:
        """Tell the registry what there is to tell; for how long there is nothing more, unless there is news."""
        report = self._checker.report(self._probe)
        self._was_ready = self._was_ready or report.status.up
        if not self._was_ready or not self._speaks():
            return LOOK_SECONDS
        now = self._checker.now()
        standing = Standing(report.status, in_words(report, self._details), self._maintenance, self.findings.current())
        if self.is_registered and not self._pace.failures and standing == self._told and now < self._pace.due:
            # A verdict that expires is news that nobody may tell of.
            return max(min(self._pace.due, report.expires_at) - now, 0.0)
        await _wait(self._leaving, await self._call(standing))
        return 0.0

    def _speaks(self) -> bool:
        draining = self._drain is not None and self._drain.is_draining
        return not draining and (self._workers is None or self._workers.leads)

    async def _call(self, standing: Standing) -> float:
        """Call the registry; for how long to leave it alone."""
        begun = self._checker.now()
        # After a pause (SIGSTOP, a frozen machine) it may have forgotten the instance: its own clock is asked first.
        renews = self.is_registered
        call = self.registry.renew if renews else self.registry.register
        self._attempted = True
        error = (await self._calls.make(partial(call, self.instance, standing), self._pace.patience)).error
        self._unanswered = error is not None and not isinstance(error, NotRegistered | Refused)
        if error is None:
            self._told = standing
            self._heard.set()
            self._heard = asyncio.Event()
            self._tell_of_success(renews=renews)
            self._pace.succeeded(begun)
            return SPACING
        rest = self._pace.failed(begun)
        self._checker.engine.registration_failed(self, type(error).__name__)
        if isinstance(error, NotRegistered | Refused):
            self._told = None
        self._tell_of_failure(error)
        return 0.0 if renews and isinstance(error, NotRegistered) else rest

    async def _withdrawn(self) -> bool:
        """Whether there is nothing more to do to withdraw the instance, or no time left for it."""
        left = self._leave_by - self._checker.now()
        if left <= 0:
            self._checker.note(
                logging.WARNING,
                "%s could not be withdrawn from %s, which forgets it %g s after it last heard of it",
                *(self.instance.id, self.registry.name, self.registry.ttl),
            )
            return True
        call = partial(self.registry.withdraw, self.instance)
        if (await self._calls.make(call, min(self._pace.patience, left))).error is not None:
            await asyncio.sleep(random.uniform(0.0, min(WITHDRAWALS, left)))
            return False
        if self._unanswered:
            # A slow registry may carry it out after the withdrawal, which is made once more, as late as may be.
            self._unanswered = False
            margin = min(PATIENCE, self._timeout / 3)
            await asyncio.sleep(max(self._leave_by - self._checker.now() - margin, 0.0))
            return False
        self._told = None
        self._checker.note(logging.INFO, "%s is withdrawn from %s", self.instance.id, self.registry.name)
        return True

    # What is told of it: once for each turn.

    def _tell_of_success(self, *, renews: bool) -> None:
        if not renews or self._complained:
            after = f" after {self._pace.failing_for:.0f} s" if self._complained else ""
            self._checker.note(logging.INFO, "%s is registered in %s%s", self.instance.id, self.registry.name, after)
        self._complained = False

    def _tell_of_failure(self, error: BaseException) -> None:
        if self._complained or self._pace.failing_for < self.registry.ttl * COMPLAINTS:
            return
        self._complained = True
        self._checker.note(
            logging.WARNING,
            "%s cannot be registered in %s, which is tried until it can: %s: %s",
            *(self.instance.id, self.registry.name, type(error).__name__, describe(error)),
        )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but for no longer than that."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
