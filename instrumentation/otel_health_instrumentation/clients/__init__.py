"""The clients that an application makes become checks, each by itself."""

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from types import ModuleType
from typing import Any, Final, cast

from otel_health import Checker, CheckFunc, Failed
from otel_health.check import CheckReturn, is_async
from otel_health_instrumentation.clients.aio_pika import AIO_PIKA
from otel_health_instrumentation.clients.django import DJANGO
from otel_health_instrumentation.clients.grpc import GRPC
from otel_health_instrumentation.clients.hooks import Undo, needs_stand_in, on_made, stand_before, when_imported
from otel_health_instrumentation.clients.kafka import AIOKAFKA, CONFLUENT_KAFKA, KAFKA_PYTHON
from otel_health_instrumentation.clients.living import SETTLES, Components, Living
from otel_health_instrumentation.clients.postgres import ASYNCPG, ASYNCPG_CONNECTIONS, PSYCOPG
from otel_health_instrumentation.clients.redis import REDIS, VALKEY
from otel_health_instrumentation.clients.sqlalchemy import SQLALCHEMY
from otel_health_instrumentation.clients.technology import UNTOLD, Follow, Server, Technology
from otel_health_instrumentation.clients.traffic import Traffic, within_a_check
from otel_health_instrumentation.guard import LOGGER, guarded

__all__ = ["TECHNOLOGIES", "Clients"]

TECHNOLOGIES: Final = {
    each.name: each
    for each in (
        AIO_PIKA,
        AIOKAFKA,
        ASYNCPG,
        ASYNCPG_CONNECTIONS,
        CONFLUENT_KAFKA,
        DJANGO,
        GRPC,
        KAFKA_PYTHON,
        PSYCOPG,
        REDIS,
        SQLALCHEMY,
        VALKEY,
    )
}
"""Every client library that is known, by its name."""

Call = Callable[[CheckFunc], CheckReturn | Awaitable[CheckReturn]]


class Clients:
    """The clients that the application makes, each a check of the Checker.

    A client that has lived for a second is a check, named after what it speaks to; all clients of one server and
    database are one check, which asks through the newest of them that is open. It is gone when they are. They are held
    weakly, and a fault in here is one log line.

    Args:
        checker: Where the checks are registered.
        technologies: Whose clients to watch, by name; all that are known by default.
        critical: The names of the checks that fail their probes and not only warn, or patterns such as
            `postgresql-*`; those need not live for a second first.
        passive_for: Seconds for which the application's own traffic proves what a check would ask, so that it need
            not; None has it ask always.
        clock: Monotonic seconds; for tests that control time.

    Raises:
        ValueError: A technology is not known.
    """

    def __init__(
        self,
        checker: Checker,
        *,
        technologies: Collection[str] | None = None,
        critical: Collection[str] = (),
        passive_for: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._technologies = _chosen(technologies)
        self._checker = checker
        self._critical = tuple(critical)
        self._traffic = None if passive_for is None else Traffic(passive_for, clock)
        self._living = Living(self._changed, self._is_critical if critical else None, clock)
        self._registered: dict[Server, bool] = {}
        """What is a component, and whether its check is ours: the application may have one of that name."""
        self._undo: list[Undo] = []
        self.call: Call = _call
        """How a synchronous client is asked, in the thread where its check runs."""

    def instrument(self) -> None:
        """Notice every client that is made from now on, and those that were made before; never raises."""
        if self._undo:
            return
        for technology in self._technologies:
            for module in {*technology.classes, *technology.immutable}:
                with guarded(f"watch the clients of {technology.name}"):
                    self._undo.append(when_imported(module, partial(self._hook, technology)))
            if self._traffic is not None:
                for module, follow in technology.traffic.items():
                    with guarded(f"follow the traffic of {technology.name}"):
                        self._undo.append(when_imported(module, partial(self._follow, follow, self._traffic)))
        with guarded("find the clients that were made before"):
            self._find()

    def uninstrument(self) -> None:
        """Leave no hook, no check and no thread; never raises."""
        undo, self._undo = self._undo, []
        for each in reversed(undo):
            with guarded("take back a hook"):
                each()
        with guarded("forget the clients"):
            self._living.forget()

    async def settle(self) -> None:
        """Look before anybody is answered, so that nothing that is critical is missing; this may take a moment."""
        self._living.look()
        if self._living.settling():
            await asyncio.sleep(SETTLES)
            self._living.look()

    def watch(self) -> None:
        """Look at the clients every second from now on, in a thread: once the process serves, and not before a fork."""
        self._living.watch()

    def look(self) -> None:
        """Look at the clients now: who stays is a check, who is gone is none any more."""
        self._living.look()

    def _hook(self, technology: Technology, module: ModuleType) -> None:
        for name in technology.classes.get(module.__name__, ()):
            self._undo.append(on_made(vars(module)[name], partial(self._made, technology)))
        self._stand_before(technology, module)

    def _stand_before(self, technology: Technology, module: ModuleType) -> None:
        for name in technology.immutable.get(module.__name__, ()):
            if needs_stand_in(vars(module)[name]):
                self._undo.append(stand_before(module, name, partial(self._made, technology)))

    def _follow(self, follow: Follow, traffic: Traffic, module: ModuleType) -> None:
        self._undo.append(follow(module, traffic))

    def _made(self, technology: Technology, client: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        technology.note(client, args, kwargs)
        self._notice(technology, client)

    def _notice(self, technology: Technology, client: object) -> None:
        if not within_a_check():
            self._living.add(client, technology)

    def _find(self) -> None:
        """Notice the clients that were made before, by a look at every object of the process.

        Classes are known by their identity: what metaclasses there are may not take them for keys of a dictionary.
        """
        technologies = {
            id(vars(sys.modules[module])[name]): technology
            for technology in self._technologies
            for module, classes in technology.classes.items()
            if module in sys.modules
            for name in classes
        }
        by_kind: dict[int, Technology | None] = {}
        for each in gc.get_objects() if technologies else ():
            kind = type(each)
            if id(kind) not in by_kind:
                known = (technologies.get(id(base)) for base in kind.__mro__)
                by_kind[id(kind)] = next((found for found in known if found is not None), None)
            technology = by_kind[id(kind)]
            if technology is not None:
                self._notice(technology, each)

    # Components are registered and removed by whoever looks.

    def _changed(self, components: Components) -> None:
        for technology in self._technologies if self._undo else ():
            # Whoever takes away what they had put in our place puts the original back, and not ours.
            for module in technology.immutable.keys() & sys.modules.keys():
                self._stand_before(technology, sys.modules[module])
        if self._traffic is not None:
            self._traffic.follow(components.keys())
        for server in self._registered.keys() - components.keys():
            if self._registered.pop(server):
                with suppress(KeyError):
                    self._checker.remove(server.name)
        for server in components.keys() - self._registered.keys():
            self._registered[server] = False
            with guarded(f"register the check {server.name}"):
                self._checker.add(server.name, partial(self._ask, server), critical=self._is_critical(server))
                self._registered[server] = True
                self._look_for_slip(server)

    def _is_critical(self, server: Server) -> bool:
        return any(fnmatchcase(server.name, pattern) for pattern in self._critical)

    def _look_for_slip(self, server: Server) -> None:
        """Say it where a component that only warns was probably meant to be critical: nobody else would."""
        for name in () if self._is_critical(server) else self._critical:
            if server.name.casefold().startswith(name.casefold()):
                LOGGER.warning(
                    "health: %s only warns, for critical=%s is no name of it; did you mean %s*?",
                    server.name, name, server.name[: len(name)],
                )  # fmt: skip

    def _ask(self, server: Server) -> CheckReturn | Awaitable[CheckReturn]:
        """Ask through the newest client; called in a thread, as for one that is synchronous it must be."""
        if server.host == UNTOLD:
            several = self._usable(server)
            if len(several) > 1:
                asked = [(technology, client, technology.check(client)) for technology, client in several]
                return _all_answer(asked, self.call)
        elif self._traffic is not None and self._traffic.proves(server):
            return None
        while (found := self._newest(server)) is not None:
            technology, client = found
            check = technology.check(client)
            try:
                return _Later(_asked_on, technology.loop(client), check) if is_async(check) else self.call(check)
            except Exception:
                # One that turns out to be closed says nothing of its server.
                if technology.can_be_asked(client):
                    raise
        # With this look the component is gone, and what comes of this run is dropped.
        self._living.look()
        raise Failed("the application has no client of it any more")

    def _newest(self, server: Server) -> tuple[Technology, Any] | None:
        return next(iter(self._usable(server)), None)

    def _usable(self, server: Server) -> list[tuple[Technology, Any]]:
        """The clients that can be asked, the newest first."""
        known = reversed(self._living.components.get(server, ()))
        return [(each.technology, client) for each in known if (client := each.usable()) is not None]


def _all_answer(asked: Sequence[tuple[Technology, Any, CheckFunc]], call: Call) -> CheckReturn | Awaitable[CheckReturn]:
    """Ask clients that may speak to different servers, one after the other: who fails, fails for all."""
    for technology, client, check in asked:
        if not is_async(check):
            try:
                call(check)
            except Exception:
                if technology.can_be_asked(client):
                    raise

    async def others_answer() -> CheckReturn:
        for technology, client, check in asked:
            if is_async(check):
                try:
                    await _asked_on(technology.loop(client), check)
                except Exception:
                    if technology.can_be_asked(client):
                        raise
        return None

    return _Later(others_answer) if any(is_async(check) for _, _, check in asked) else None


class _Later:
    """A coroutine that is made when it is awaited: nothing is left of it where the loop has ended by then."""

    def __init__(self, make: Callable[..., Awaitable[CheckReturn]], *arguments: object) -> None:
        self._make = partial(make, *arguments)

    def __await__(self) -> Generator[Any, Any, CheckReturn]:
        return self._make().__await__()


def _call(check: CheckFunc) -> CheckReturn | Awaitable[CheckReturn]:
    return check()


async def _asked_on(loop: asyncio.AbstractEventLoop | None, check: CheckFunc) -> CheckReturn:
    """Run an async check on the loop that its client belongs to; the Checker may run on another one."""
    asked = cast("Coroutine[Any, Any, CheckReturn]", check())
    if loop is None or loop is asyncio.get_running_loop():
        return await asked
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, loop))


def _chosen(names: Collection[str] | None) -> tuple[Technology, ...]:
    if names is None:
        return tuple(TECHNOLOGIES.values())
    for name in names:
        if name not in TECHNOLOGIES:
            raise ValueError(f"clients: {name!r} is not known; there are {', '.join(sorted(TECHNOLOGIES))}")
    return tuple(TECHNOLOGIES[name] for name in names)
