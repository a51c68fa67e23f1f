"""Leaving in good order: not ready at once, still serving for a while, then the server's own shutdown, and an end."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import Final, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_health.check import LIVEZ, READYZ, STARTUPZ, is_async, require_seconds
from otel_health.checker import Checker
from otel_health.compose import set_once
from otel_health.forks import tell_of_forks
from otel_health.lifecycle.signals import Chain
from otel_health.redaction import describe
from otel_health.threads import Threads, call_on

Hook = Callable[[], object]
"""Withdraws the service from somewhere; without arguments, sync or async."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

LAST_SECONDS: Final = 5.0
"""How long before the end (at most a third of the cap) requests that still run are cancelled."""

TELLING_SECONDS: Final = 0.25
"""How long a forced end waits, at most, for its log line to be written."""


class Drain:
    """Turns readiness off at SIGTERM, keeps serving for `delay` seconds, and then lets the server shut down.

    Enter it where the application starts, in its lifespan. It
    stands before the signal handlers that are there, and puts them back when it is left. SIGINT, a second SIGTERM, a
    reload by uvicorn and a SIGTERM before the service was ever ready do not wait. Liveness is never touched.

    At SIGTERM, in this order: the gate closes (503 within 100 ms), the withdrawal hooks run, answers say
    `Connection: close`; after `delay` seconds the handler that was there is called, and the server shuts down as it
    would have. Requests that have not ended shortly before `cap` are cancelled, and at the end of `cap` the process
    exits with status 143, whatever still holds it.

    Args:
        checker: Whose readiness it turns.
        delay: Seconds to keep serving: as long as whoever sends traffic needs to notice. For a load balancer, its
            probes' interval times the failures that it wants, and one interval more (HAProxy's default: 8 s); in
            Kubernetes, what the removal from all endpoints takes. Zero does not wait.
        cap: Seconds that the shutdown may take after that. Delay and cap together should be below the grace of
            whoever sent the signal (Kubernetes 30 s, `docker stop` 10 s).
        hooks: Called first, at the same time as each other: what withdraws the service from registries.
        hook_timeout: Seconds that each hook may take. One that fails or takes longer is logged, no more.
        name: The name of the gate's component.
        probes: The probes that turn: `readyz`, and readiness probes of your own.

    Raises:
        ValueError: A time is out of its range, or the name is taken or ill-formed.
        TypeError: A hook cannot be called.

    Example:
        >>> drain = Drain(checker)
        >>> app = Starlette(
        ...     routes=checker.routes(),
        ...     lifespan=checker.lifespan_with(drain.lifespan),
        ...     middleware=[Middleware(drain.middleware)],
        ... )
    """

    def __init__(
        self,
        checker: Checker,
        *,
        delay: float = 10.0,
        cap: float = 15.0,
        hooks: Iterable[Hook] = (),
        hook_timeout: float = 5.0,
        name: str = "drain",
        probes: Collection[str] = frozenset({READYZ}),
    ) -> None:
        if delay != 0 or isinstance(delay, bool):
            require_seconds("Drain", "delay", delay)
        require_seconds("Drain", "cap", cap)
        require_seconds("Drain", "hook_timeout", hook_timeout)
        self.delay = delay
        self.cap = cap
        self._hook_timeout = hook_timeout
        self._hooks: list[Hook] = []
        for hook in hooks:
            self.hook(hook)
        untouched = {LIVEZ, STARTUPZ}.intersection(probes)
        if untouched:
            raise ValueError(
                f"Drain: probes={probes!r} names {min(untouched)!r}, which would have a draining service killed; "
                "leave it out"
            )
        self._checker = checker
        self._probes = tuple(probes)
        self.gate = checker.gate(name, ready=True, probes=probes)
        """Open until the drain begins."""
        self._threads = Threads(working=8, total=32)
        self._requests: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = False
        self._reset()
        tell_of_forks(self)

    def _reset(self) -> None:
        self._began_at: float | None = None
        self._seen_ready = False
        self._signalled = False
        self._passed_on = False
        self._awaited = 0
        self._over = asyncio.Event()
        self._withdrawals: set[asyncio.Task[None]] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._chains: dict[int, Chain] = {}
        self._cancelling: asyncio.TimerHandle | None = None
        self._end: threading.Timer | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def is_draining(self) -> bool:
        """Whether it has begun."""
        return self._began_at is not None

    def hook(self, hook: Hook) -> Hook:
        """Have `hook` called, once, when the drain begins; also as a decorator.

        Raises:
            TypeError: It cannot be called.
        """
        if not callable(hook):
            raise TypeError(f"Drain: the hook {hook!r} cannot be called; pass a function without arguments")
        self._hooks.append(hook)
        return hook

    def begin(self, reason: str = "draining") -> None:
        """Turn readiness off and run the hooks; from any thread, and harmless when repeated.

        For a preStop hook, or where no handler could be installed. It stops no server: the SIGTERM that follows
        waits for what is left of the delay.
        """
        if self._began_at is None:
            self._look()
            self._checker.engine.leaving = True
            self._began_at = self._checker.now()
            self.gate.close(reason)
        call_on(self._loop, self._begun)

    def stop(self, reason: str = "stopping") -> None:
        """End the process as a SIGTERM would, from any thread: drain, and then the server's own shutdown.

        For whoever watches over it to start it anew; it is none of ours whether anybody does.

        Raises:
            RuntimeError: SIGTERM is not handled here, so that it would end the process at once.
        """
        if self._loop is None or signal.SIGTERM not in self._chains:
            raise RuntimeError("this Drain does not handle SIGTERM; enter it in the main thread")
        self.begin(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    async def wait(self) -> None:
        """Wait until it is time to end: SIGTERM has come, and the delay is over.

        For a program without a server. While somebody waits here, a SIGTERM that nobody else handles does not end the
        process: the program is trusted to end by itself, within the cap.
        """
        self._awaited += 1
        try:
            await self._over.wait()
        finally:
            self._awaited -= 1

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this Drain is entered already; use one for each service")
        handles_signals = threading.current_thread() is threading.main_thread()
        if handles_signals:
            self._refuse_another()
        self._reset()
        self._checker.engine.leaving = False
        self.gate.open()
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = self._checker.subscribe(lambda _: self._look())
        if not handles_signals:
            self._checker.note(logging.INFO, "no signals can be handled outside the main thread; call begin() to drain")
            return self
        _entered.append(self)
        for number in SIGNALS:
            chain = Chain(number, self._signal, self._loop)
            refused = chain.install()
            if refused is None:
                self._chains[number] = chain
            else:
                self._checker.note(logging.WARNING, "%s is left alone: %s", number.name, refused)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.begin("stopping")
            self._begun()
            if self._withdrawals:
                await asyncio.wait(self._withdrawals)
        finally:
            for chain in self._chains.values():
                chain.restore()
            self._unsubscribe()
            if self._stopping is not None:
                self._stopping.cancel()
            if self._cancelling is not None:
                self._cancelling.cancel()
            if self._end is not None:
                self._end.cancel()
            self._threads.close()
            self._loop = None
            if self in _entered:
                _entered.remove(self)

    def _refuse_another(self) -> None:
        """Let one Drain handle the signals of a process: two would wait for each other's delays."""
        if any(each._loop is not None and not each._loop.is_closed() for each in _entered):  # noqa: SLF001 - its own kind.
            raise RuntimeError(
                "another Drain of this process is entered already, and their delays would add up; use one for the "
                "process, and give it the withdrawals of all as hooks"
            )
        _entered.clear()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:  # noqa: ARG002 - a lifespan's shape.
        """Stay entered while the application lives: `checker.lifespan_with(drain.lifespan)`."""
        async with self:
            yield

    def forked(self) -> None:
        """Be left, in a forked child: it ends at a signal as it would have without us."""
        _entered.clear()
        if self._loop is not None:
            self._loop = None
            for chain in self._chains.values():
                chain.forked()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application: during the drain its answers ask clients to connect anew, elsewhere.

        It also sees when the server has started, and cancels what still runs shortly before the end.

        Example:
            >>> Starlette(middleware=[Middleware(drain.middleware)])
            >>> fastapi_app.add_middleware(drain.middleware)
        """

        async def drained(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                self._starting = True
                await app(scope, receive, partial(self._started, send))
                return
            task = asyncio.current_task()
            if task is None or task in self._requests:
                await app(scope, receive, send)
                return
            self._requests.add(task)
            try:
                # HTTP/2 has no such header, and says the same by other means.
                keeps = scope["type"] == "http" and scope.get("http_version", "1.1") in ("1.0", "1.1")
                await app(scope, receive, partial(self._answer, send) if keeps else send)
            finally:
                self._requests.discard(task)

        return drained

    async def _started(self, send: Send, message: Message) -> None:
        if message["type"] in ("lifespan.startup.complete", "lifespan.startup.failed"):
            self._starting = False
        await send(message)

    async def _answer(self, send: Send, message: Message) -> None:
        if self._began_at is not None and message["type"] == "http.response.start":
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await send(message)

    # Signals.

    def _signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: between any two steps of whatever the main thread does, so touching as little as can be."""
        first = not self._signalled and not self._passed_on
        self._signalled = True
        if first and number == signal.SIGTERM and call_on(self._loop, self._stop):
            return
        self._passed_on = True
        call_on(self._loop, self._hurry, number)
        self._chains[number].pass_on(frame)

    # On the loop.

    def _stop(self) -> None:
        """The first SIGTERM: drain, and then pass it on."""
        if self._loop is None or self._passed_on:
            return
        waits = self.delay > 0 and not _reloads() and self._serves()
        self.begin()
        self._begun()
        left = max(self._ends_waiting() - self._checker.now(), 0.0) if waits else 0.0
        self._stopping = self._loop.create_task(self._stop_later(left))
        self._limit(signal.SIGTERM, left + self.cap)

    async def _stop_later(self, left: float) -> None:
        await asyncio.sleep(left)
        if left and self._withdrawals:
            await asyncio.wait(self._withdrawals)
        if self._passed_on:
            return
        self._passed_on = True
        self._over.set()
        chain = self._chains[signal.SIGTERM]
        if not (chain.is_default and self._awaited):
            # Not in this task: what a handler raises is meant for the program.
            asyncio.get_running_loop().call_soon(chain.pass_on, None)

    def _hurry(self, number: int) -> None:
        """The signal was passed on already: what is left of the drain happens beside the shutdown."""
        self.begin()
        self._begun()
        self._over.set()
        self._limit(number, self.cap)

    def _begun(self) -> None:
        """Begin what belongs to the drain and needs the loop."""
        if self._loop is not None and self._withdrawals is None:
            self._withdrawals = {self._loop.create_task(self._withdraw(hook)) for hook in self._hooks}

    def _ends_waiting(self) -> float:
        assert self._began_at is not None
        return self._began_at + self.delay

    def _serves(self) -> bool:
        """Whether anybody may be sending traffic: the server has started, and the service was ready."""
        self._look()
        return not self._starting and (self._seen_ready or not self._checker.is_open)

    def _look(self) -> None:
        if not self._seen_ready:
            self._seen_ready = any(self._checker.report(probe).status.up for probe in self._probes)

    # Hooks.

    async def _withdraw(self, hook: Hook) -> None:
        name = getattr(hook, "__qualname__", type(hook).__name__)
        task = asyncio.ensure_future(_outcome(hook, self._threads))
        await asyncio.wait((task,), timeout=self._hook_timeout)
        if not task.done():
            task.cancel()
            self._checker.fault("the hook %s did not end within %g s of the drain", name, self._hook_timeout)
        elif (error := task.result()) is not None:
            self._checker.fault("the hook %s raised %s: %s", name, type(error).__name__, describe(error))

    # The end.

    def _limit(self, number: int, seconds: float) -> None:
        """See to it that the process ends within so many seconds."""
        if self._loop is None:
            return
        if self._cancelling is not None:
            self._cancelling.cancel()
        if self._end is not None:
            self._end.cancel()
        self._cancelling = self._loop.call_later(
            max(seconds - min(LAST_SECONDS, self.cap / 3), 0.0), self._cancel_requests
        )
        # A thread, since the loop may be what holds up the end.
        self._end = threading.Timer(max(seconds - TELLING_SECONDS, 0.0), self._force, (number,))
        self._end.daemon = True
        self._end.name = "otel_health-drain"
        try:
            self._end.start()
        except RuntimeError:  # The system has no thread left: the drain goes on, and only its last resort is missing.
            self._end = None
            self._checker.note(
                logging.ERROR, "no thread could be started: nothing ends this process after %g s", seconds
            )

    def _cancel_requests(self) -> None:
        if self._requests:
            self._checker.fault("%d requests have not ended by themselves and are cancelled", len(self._requests))
        for task in self._requests:
            task.cancel()

    def _force(self, number: int) -> None:
        self._checker.fault("the shutdown takes longer than its cap of %g s; the process exits now", self.cap)
        time.sleep(TELLING_SECONDS)
        os._exit(128 + number)


async def _outcome(hook: Hook, threads: Threads) -> BaseException | None:
    """What the hook raised, whatever it is."""
    try:
        value = await _in_thread(hook, threads) if not is_async(hook) else hook()
        if isinstance(value, Awaitable):
            await value
    except BaseException as error:  # noqa: BLE001 - the hooks' runner: a drain goes on whatever a hook does.
        return error
    return None


async def _in_thread(hook: Hook, threads: Threads) -> object:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

    def call() -> None:
        try:
            outcome: tuple[object, BaseException | None] = hook(), None
        except BaseException as error:  # noqa: BLE001 - as above.
            outcome = None, error
        call_on(loop, set_once, done, outcome)

    threads.submit(call)
    value, error = await done
    if error is not None:
        raise error
    return value


def _reloads() -> bool:
    """Whether this is the child of a reloading uvicorn: nobody's traffic depends on a developer's process."""
    return "--reload" in sys.argv or os.environ.get("UVICORN_RELOAD", "").lower() in ("1", "true", "yes", "on")


_entered: Final[list[Drain]] = []
"""The Drain that handles this process's signals."""
