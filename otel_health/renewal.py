"""Who is renewed, and who waits for it: one run serves all who ask."""

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from otel_health.execution import Run, Runner
from otel_health.registry import Component, Registry


class _Round:
    """What one probe waits for: the runs of all its components that were too old."""

    __slots__ = ("done", "waiting")

    def __init__(self, done: "asyncio.Future[None]", waiting: int) -> None:
        self.done = done
        self.waiting = waiting

    def arrived(self) -> None:
        self.waiting -= 1
        if self.waiting == 0 and not self.done.done():
            self.done.set_result(None)


class Renewals:
    """Renews components, never one twice at a time.

    Args:
        runner: Makes the runs.
        registry: Whose components they are.
        ttl: Seconds after which a result is too old for a probe that renews on demand.
        ended: Called on the loop when a run of a registered component has ended.
    """

    def __init__(self, runner: Runner, registry: Registry, ttl: float, ended: Callable[[Component, Run], None]) -> None:
        self._runner = runner
        self._registry = registry
        self._ttl = ttl
        self._ended_run = ended
        self.reset()

    def reset(self) -> None:
        """Forget what is under way: the loop it was under way on is gone."""
        self._rounds: dict[str, asyncio.Future[None]] = {}
        self._waiting: dict[Component, list[_Round]] = {}
        self._fresh: dict[str, tuple[tuple[Component, ...], float]] = {}
        for component in self._registry:
            component.renewing = False

    def renew(self, component: Component) -> None:
        """Begin a run of this component, unless one is under way."""
        if not component.renewing and self._registry.holds(component):
            component.renewing = True
            self._runner.start(component.slot, component.check.timeout, partial(self._ended, component))

    def round(
        self, probe: str, *, only: str | None = None, exclude: Collection[str] = ()
    ) -> "asyncio.Future[None] | None":
        """Renew what is too old for this probe; the future of the round, or None if there is nothing to wait for."""
        asked = self._registry.asked_by(probe)
        if only is not None:
            return self._begin(tuple(component for component in asked if component.name == only))
        if exclude:
            return self._begin(tuple(component for component in asked if component.name not in exclude))
        under_way = self._rounds.get(probe)
        if under_way is not None and not under_way.done():
            return under_way
        known, fresh_until = self._fresh.get(probe, ((), 0.0))
        if known is asked and self._runner.clock() < fresh_until:
            return None
        begun = self._begin(asked)
        if begun is None:
            oldest = min((component.finished for component in asked), default=float("inf"))
            self._fresh[probe] = (asked, oldest + self._ttl)
        else:
            self._rounds[probe] = begun
        return begun

    def _begin(self, asked: tuple[Component, ...]) -> "asyncio.Future[None] | None":
        now = self._runner.clock()
        too_old = [component for component in asked if now - component.finished >= self._ttl]
        if not too_old:
            return None
        begun = _Round(self._runner.loop.create_future(), len(too_old))
        for component in too_old:
            self._waiting.setdefault(component, []).append(begun)
            self.renew(component)
        return None if begun.done.done() else begun.done

    def drop(self, component: Component) -> None:
        """Want no more of a component that was removed."""
        run = component.slot.run
        if run is not None:
            run.cancel()

    def _ended(self, component: Component, run: Run) -> None:
        component.renewing = False
        try:
            if self._registry.holds(component):
                self._ended_run(component, run)
        finally:
            # The exception's traceback holds the run, and would keep both until the garbage collector came by.
            run.exception = run.value = None
            for round_ in self._waiting.pop(component, ()):
                round_.arrived()
