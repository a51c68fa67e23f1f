"""Who is renewed, and who waits for it: one run serves all who ask."""

import asyncio
from collections.abc import Callable
from functools import partial

from otel_health.compose import set_once
from otel_health.execution import BATCH_RUNS, Runner
from otel_health.forks import leave
from otel_health.registry import Component, Registry
from otel_health.run import Run


class _Round:
    """What one probe waits for: the runs of all its components that were too old."""

    __slots__ = ("done", "waiting")

    def __init__(self, done: "asyncio.Future[None]", waiting: int) -> None:
        self.done = done
        self.waiting = waiting

    def arrived(self) -> None:
        self.waiting -= 1
        if self.waiting == 0:
            set_once(self.done, None)


class Renewals:
    """Renews components, never one twice at a time.

    Args:
        runner: Makes the runs.
        registry: Whose components they are.
        ttl: Seconds after which a result is too old for a probe that renews on demand.
        ended: Called on the loop when a run of a registered component has ended.
        take: Judges at once a component that needs no run.
    """

    def __init__(
        self,
        runner: Runner,
        registry: Registry,
        ttl: float,
        ended: Callable[[Component, Run], None],
        take: Callable[[Component], None],
    ) -> None:
        self._runner = runner
        self._registry = registry
        self._ttl = ttl
        self._ended_run = ended
        self._take = take
        self._rounds: dict[tuple[str, str | None], asyncio.Future[None]] = {}
        self._fresh: dict[str, tuple[tuple[Component, ...], float]] = {}

    def reset(self) -> None:
        """Forget what is under way: the loop it was under way on is gone, or has been left."""
        for begun in self._rounds.values():
            if not begun.get_loop().is_closed():
                set_once(begun, None)
        self._rounds.clear()
        self._fresh.clear()
        for component in self._registry:
            component.renewing, component.again, component.rounds = False, False, None

    def forked(self) -> None:
        """Leave those who wait to the parent, in a forked child."""
        leave(self._rounds)
        self._rounds = {}
        self._fresh.clear()

    def expire(self, component: Component) -> None:
        """Call its result too old; a run that is under way, which may have begun too early, is followed by another.

        Whoever waits for the run that is under way then waits for the one that follows, too.
        """
        self._fresh.clear()
        component.finished = float("-inf")
        component.again = component.renewing

    def renew(self, component: Component) -> bool:
        """Begin a run of this component unless one is under way; False if there is nothing to wait for."""
        if not component.registered:
            return False
        if component.instant is not None:
            self._take(component)
            return False
        if not component.renewing:
            component.renewing = True
            if component.ended is None:
                component.ended = partial(self._ended, component)
            self._runner.start(component.slot, component.check.timeout, component.ended)
        return True

    def round(self, probe: str, only: str | None = None) -> "asyncio.Future[None] | None":
        """Renew what is too old for this probe, or for one of its components.

        Returns the future of the round, which all who ask meanwhile share, or None if there is nothing to wait for.
        """
        key = (probe, only)
        under_way = self._rounds.get(key)
        if under_way is not None and not under_way.done():
            return under_way
        asked = self._registry.asked_by(probe)
        known, fresh_until = self._fresh.get(probe, ((), 0.0))
        if known is asked and self._runner.clock() < fresh_until:
            return None
        begun = self._begin([component for component in asked if only is None or component.name == only])
        if begun is not None:
            self._rounds[key] = begun
            begun.add_done_callback(lambda _: self._rounds.pop(key, None))
        elif only is None:
            self._fresh[probe] = (asked, min(map(self._too_old_at, asked), default=float("inf")))
        return begun

    def _begin(self, asked: list[Component]) -> "asyncio.Future[None] | None":
        now = self._runner.clock()
        too_old = [component for component in asked if now >= self._too_old_at(component)]
        if not too_old:
            return None
        begun = _Round(self._runner.loop.create_future(), len(too_old))
        self._join(begun, too_old, 0)
        return None if begun.done.done() else begun.done

    def _too_old_at(self, component: Component) -> float:
        """When to renew on demand: after `ttl`, and at the latest when the result is believed no more."""
        return component.finished + min(self._ttl, component.fresh_for)

    def _join(self, begun: _Round, too_old: list[Component], first: int) -> None:
        """Have the round wait for its components, a batch at a time: registering thousands is work, too."""
        for component in too_old[first : first + BATCH_RUNS]:
            if component.rounds is None:
                component.rounds = []
            component.rounds.append(begun.arrived)
            if not self.renew(component):
                self._arrive(component)
        if first + BATCH_RUNS < len(too_old):
            self._runner.loop.call_soon(self._join, begun, too_old, first + BATCH_RUNS)

    def drop(self, component: Component) -> None:
        """Want no more of a component that was removed."""
        run = component.slot.run
        if run is not None:
            run.cancel()

    def _ended(self, component: Component, run: Run) -> None:
        component.renewing = False
        try:
            if component.registered:
                self._ended_run(component, run)
        finally:
            if run.exception is not None:
                # Its traceback holds the run, and would keep both until the garbage collector came by.
                run.exception = None
            if not (component.again and self._renewed_again(component)):
                self._arrive(component)

    def _renewed_again(self, component: Component) -> bool:
        component.again = False
        return self.renew(component)

    def _arrive(self, component: Component) -> None:
        rounds, component.rounds = component.rounds, None
        if rounds is not None:
            for arrived in rounds:
                arrived()
