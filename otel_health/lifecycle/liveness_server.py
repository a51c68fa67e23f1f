"""Probes on a port of their own, answered while the application's loop is stuck."""

import asyncio
import errno
import ipaddress
import logging
import os
import selectors
import socket
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from otel_health import Checker
from otel_health.check import LIVEZ, require_name
from otel_health.forks import tell_of_forks
from otel_health.http.endpoints import require_details
from otel_health.http.render import Details
from otel_health.lifecycle.loop_monitor import EVENT_LOOP, LoopMonitor, require_open
from otel_health.lifecycle.serving.by_process import ByProcess
from otel_health.lifecycle.serving.by_thread import ByThread, Scraped
from otel_health.lifecycle.serving.child import require_interpreter
from otel_health.redaction import describe
from otel_health.threads import call_on, start

Mode = Literal["thread", "process"]
MODES: Final[tuple[Mode, ...]] = ("thread", "process")

BACKLOG: Final = 512
"""Clients that the kernel lets wait to be taken in."""

STOP_SECONDS: Final = 2.0
"""How long closing waits, at most, for the port to be free."""


STANDBY_SECONDS: Final = 0.25
"""Seconds between two attempts to take a port over from another worker."""


class Several(Protocol):
    """What is asked of `Workers`."""

    def others(self) -> Collection[int]:
        """Return the process numbers of the other workers."""

    def dead(self) -> Collection[int]:
        """Return the process numbers of those whose livez fails."""


class Serving(Protocol):
    """How requests on a listening socket are answered."""

    def serve(self, listening: socket.socket, wake: socket.socket, started: Callable[[], None]) -> None:
        """Serve until `wake` is closed; `started` is called once requests are answered."""

    def abandon(self) -> None:
        """Close what a forked child has of it."""


class LivenessServer:
    """Answers `/livez`, and other probes if asked to, on a port of its own, also while the application's loop is stuck.

    It answers what the Checker's own routes answer to anyone. It brings a `LoopMonitor` unless one is open: a loop
    that is stuck for 30 s fails `livez`, and a shorter stall does not.

    Args:
        checker: Whose probes are answered; it must be open.
        port: Where it listens; 0 for any free port, which `port` then names.
        host: The address of one interface, or all of IPv4; `"::"` is all of IPv6 and IPv4. Kubernetes' kubelet
            asks at the pod's address, never at 127.0.0.1.
        mode: `"thread"` needs the interpreter's lock for each answer; `"process"` answers from a process of its own
            (13 MiB), whatever extensions and computing threads do to this one.
        probes: Which probes.
        details: What anyone may see: `"status"`, `"names"` or `"full"`.
        metrics: A `PrometheusExporter`, to be scraped at `/metrics`; in a thread only.
        workers: The open `Workers` of this process, where there are several: one of them has the port, another
            takes it over when that one ends, and `livez` is the worst of them all.

    Raises:
        ValueError: An option is out of its range, or does not go with the mode.

    Example:
        >>> async with checker, LivenessServer(checker, port=8081):
        ...     await serve()
    """

    def __init__(
        self,
        checker: Checker,
        *,
        port: int,
        host: str = "0.0.0.0",
        mode: Mode = "thread",
        probes: Collection[str] = (LIVEZ,),
        details: Details = "names",
        metrics: Scraped | None = None,
        workers: Several | None = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ValueError(f"LivenessServer: port={port!r} must be a whole number from 0 to 65535")
        if mode not in MODES:
            raise ValueError(f"LivenessServer: mode={mode!r} must be one of {', '.join(map(repr, MODES))}")
        if isinstance(probes, str) or not isinstance(probes, Collection) or not probes:
            raise ValueError(f"LivenessServer: probes={probes!r} must be a set of names, such as {{'livez'}}")
        for probe in probes:
            require_name(probe, "probe")
        require_details(details, None)
        if metrics is not None and mode != "thread":
            raise ValueError(
                "LivenessServer: the metrics are in this process, so mode='process' cannot serve them; leave them out "
                "and add exporter.route() to the application, or use mode='thread'"
            )
        if metrics is not None and not hasattr(metrics, "scraped"):
            raise TypeError(f"LivenessServer: metrics is a {type(metrics).__name__}; pass a PrometheusExporter")
        if workers is not None and not hasattr(workers, "dead"):
            raise TypeError(f"LivenessServer: workers is {type(workers).__name__}; pass the open Workers")
        if workers is not None and port == 0:
            raise ValueError("LivenessServer: port=0 would give each of several workers a port of its own; choose one")
        self._workers = workers
        self._checker = checker
        self._port = port
        self._address = _address(host)
        self._mode: Mode = mode
        self._probes = tuple(probes)
        self._details: Details = details
        self._metrics = metrics
        self._open: AsyncExitStack | None = None
        self._listening: socket.socket | None = None
        self._ends: tuple[socket.socket, ...] = ()
        self._serving: Serving | None = None
        tell_of_forks(self)

    @property
    def port(self) -> int:
        """The port it listens at."""
        listening = self._listening
        return self._port if listening is None else int(listening.getsockname()[1])

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("this LivenessServer is already open; open it once")
        require_open(self._checker, "LivenessServer")
        for probe in self._probes:
            self._checker.report(probe)
        async with AsyncExitStack() as opened:
            if EVENT_LOOP not in self._checker.report(LIVEZ).components:
                await opened.enter_async_context(LoopMonitor(self._checker))
            if self._mode == "process":
                require_interpreter()
            self._listening = self._listens()
            self._open = opened
            opened.callback(self._forget)
            await self._start(opened)
            self._open = opened.pop_all()
        self._warn_of_loopback()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await opened.aclose()

    async def _start(self, opened: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()
        wake, bell = self._ends = socket.socketpair()
        bell.setblocking(False)
        serving = self._serving = self._made(bell)

        def tell(future: asyncio.Future[None], error: BaseException | None = None) -> None:
            call_on(loop, _settle_once, future, error)

        def serve() -> None:
            try:
                self._stand_by(wake, lambda: tell(started))
                if self._listening is not None:
                    serving.serve(self._listening, wake, lambda: tell(started))
            except BaseException as error:  # noqa: BLE001 - whoever opens is told, and whoever reads the log later.
                self._checker.fault("the liveness server has ended: %s", describe(error))
                tell(started, error)
            finally:
                if self._listening is not None:
                    self._listening.close()
                wake.close()
                tell(ended)

        async def stop() -> None:
            bell.close()
            await asyncio.wait((ended,), timeout=STOP_SECONDS)

        start(serve, "otel_health-liveness")
        opened.push_async_callback(stop)
        await started

    def _listens(self) -> socket.socket | None:
        """Listen, unless another worker does."""
        try:
            return _listen(self._address, self._port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and self._workers is not None and self._workers.others():
                return None
            raise

    def _stand_by(self, wake: socket.socket, started: Callable[[], None]) -> None:
        """Wait until the port is free, or `wake` is closed."""
        if self._listening is not None:
            return
        started()
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            while self._listening is None and not selector.select(STANDBY_SECONDS):
                with suppress(OSError):
                    self._listening = _listen(self._address, self._port)

    def _made(self, bell: socket.socket) -> Serving:
        dead = list if self._workers is None else self._workers.dead
        if self._mode == "process":
            return ByProcess(self._checker, self._probes, self._details, dead)

        def ring() -> None:
            with suppress(OSError):  # It rings already, or nobody listens any more.
                bell.send(b"!")

        return ByThread(self._checker, self._probes, self._details, self._metrics, ring, dead)

    def _forget(self) -> None:
        if self._listening is not None:
            self._listening.close()
        self._open = self._listening = self._serving = None
        self._ends = ()

    def forked(self) -> None:
        """Close what a forked child has of it: a socket held there would keep the port, and answer nobody."""
        if self._serving is not None:
            self._serving.abandon()
        for held in (self._listening, *self._ends):
            if held is not None:
                held.close()
        self._open = self._listening = self._serving = None
        self._ends = ()

    def _warn_of_loopback(self) -> None:
        if self._address.is_loopback and "KUBERNETES_SERVICE_HOST" in os.environ:
            self._checker.note(
                logging.WARNING,
                "the liveness server listens at %s, where Kubernetes' kubelet cannot reach it; use host='0.0.0.0', or "
                "host='::' where pods have IPv6 addresses",
                self._address,
            )


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: object) -> _Address:
    """The address that is meant; no names but one, for looking one up may take for ever."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else str(host))
    except ValueError:
        raise ValueError(
            f"LivenessServer: host={host!r} must be an address, such as '0.0.0.0', '::' or '127.0.0.1'"
        ) from None


def _listen(address: _Address, port: int) -> socket.socket:
    """Listen, or say why not and what to do.

    Raises:
        OSError: The port is taken or not allowed, or the address is none of this machine.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.is_unspecified)
        listening.bind(socket.getaddrinfo(str(address), port, family, flags=socket.AI_NUMERICHOST)[0][4])
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        raise OSError(
            error.errno, f"LivenessServer cannot listen at {where}: {error.strerror}; {_remedy(error)}"
        ) from None
    return listening


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "give it a port that nothing else uses; several workers share one that is given workers=Workers(...)"
    if error.errno == errno.EACCES:
        return "use a port above 1023"
    return "use host='0.0.0.0', or an address of this machine"


def _settle_once(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
