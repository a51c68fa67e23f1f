"""Drains: under real servers and real signals, as a rolling restart sends them."""

import asyncio
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_health import Checker, Status
from otel_health.lifecycle import Drain
from tests.doubles import eventually, passing
from tests.services import running, serving
from tests.virtual import now, virtual_checker

# Under real servers.


@pytest.mark.parametrize("server", ["uvicorn", "uvloop", "workers", "gunicorn"])
def test_sigterm_turns_readiness_off_and_the_service_serves_on(tmp_path: Path, server: str) -> None:
    """Not ready at once, alive and serving for the delay, hooks run first, and then the server's own shutdown."""
    if server == "gunicorn":
        pytest.importorskip("gunicorn")
        pytest.importorskip("uvicorn_worker")
    with serving(tmp_path, server) as service:
        service.waits_for("/readyz", 200)
        service.hears("ready", times=2 if server in ("workers", "gunicorn") else 1)
        sent = service.signal()
        not_ready = service.waits_for("/readyz", 503)
        served = sent
        while time.monotonic() < sent + 0.8:
            assert (service.get("/livez"), service.get("/hello")) == (200, 200)
            served = time.monotonic()
        ended = service.ends()

        assert not_ready - sent < 0.9
        assert served - sent > 0.6
        assert 1.0 <= ended - sent < 10
        assert service.process.returncode == (0 if server in ("workers", "gunicorn") else -signal.SIGTERM)
        assert sent < service.said["withdrawn"] < sent + 0.9
        assert service.said["slowly withdrawn"] < service.said["ended"]
        assert "Traceback" not in service.log


def test_clients_that_keep_connections_are_asked_to_close_them(tmp_path: Path) -> None:
    """Before the drain they may keep them; in the drain each answer closes its own."""
    with serving(tmp_path) as service:
        service.waits_for("/readyz", 200)
        kept = service.connect()
        for _ in range(2):
            kept.request("GET", "/hello")
            answer = kept.getresponse()
            assert (answer.read(), answer.headers["connection"]) == (b"hello", None)
        slow = service.connect()
        slow.request("GET", "/hello?seconds=0.3")
        service.signal()
        service.waits_for("/readyz", 503)

        for connection in (kept, slow):
            if connection is kept:
                connection.request("GET", "/hello")
            answer = connection.getresponse()
            assert (answer.read(), answer.headers["connection"]) == (b"hello", "close")
            connection.close()
        service.ends()


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,), (signal.SIGTERM, signal.SIGINT)],
    ids=["twice", "ctrl-c", "ctrl-c-after"],
)
def test_who_is_in_a_hurry_does_not_wait(tmp_path: Path, signals: tuple[signal.Signals, ...]) -> None:
    """Ctrl-C and a second signal skip the delay; the hooks still run, and the lifespan ends in good order."""
    with serving(tmp_path, DELAY="60") as service:
        service.waits_for("/readyz", 200)
        for number in signals:
            service.signal(number)
            time.sleep(0.3)
        service.ends(20)

        assert set(service.said) == {"starting", "ready", "withdrawn", "withdrawing", "slowly withdrawn", "ended"}
        assert "Traceback" not in service.log


def test_a_sigterm_during_the_start_ends_it_as_without_us(tmp_path: Path) -> None:
    """The drain is entered already, but nobody's traffic comes yet: there is nothing to wait for."""
    with serving(tmp_path, STARTS_FOR="2", DELAY="60") as service:
        service.hears("starting")
        time.sleep(0.5)  # The checks pass meanwhile: it is ready, but the server has not started.
        service.signal()
        service.ends(20)

        assert service.process.returncode == -signal.SIGTERM
        assert "Traceback" not in service.log


def test_a_service_that_was_never_ready_does_not_wait(tmp_path: Path) -> None:
    """No load balancer has ever sent it anything."""
    with serving(tmp_path, NEVER_READY="yes", DELAY="60") as service:
        service.waits_for("/readyz/database", 503)
        service.signal()
        service.ends(20)


def test_a_reload_does_not_wait(tmp_path: Path) -> None:
    """A developer who saves a file need not wait for load balancers."""
    with serving(tmp_path, "reload", DELAY="60") as service:
        service.waits_for("/readyz", 200)
        deadline = time.monotonic() + 20
        while service.said_in.read_text().count("starting") < 2:
            # What is saved before the watching has begun is not seen.
            with (tmp_path / "service.py").open("a") as source:
                source.write("# saved\n")
            assert time.monotonic() < deadline, service.log
            time.sleep(0.5)
        service.signal(signal.SIGINT)
        service.ends(20)


def test_an_endless_stream_is_ended_within_the_cap(tmp_path: Path) -> None:
    """It is cancelled shortly before the end, so that the application still ends in good order."""
    with serving(tmp_path, DELAY="0.5", CAP="6") as service:
        service.waits_for("/readyz", 200)
        stream = service.connect()
        stream.request("GET", "/events")
        assert stream.getresponse().read(4) == b"data"
        sent = service.signal()
        ended = service.ends(20)
        stream.close()

        assert 4.0 <= ended - sent < 12
        assert "ended" in service.said
        assert "1 requests have not ended by themselves" in service.log


HOLDING = """
import signal, time
from tests.services import DRAINED
exec(DRAINED)

async def hold(_):
    time.sleep(3600)

app.router.routes.append(Route("/hold", hold))
"""


def test_a_loop_that_is_blocked_in_the_shutdown_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """After the cap the process exits, with the status of a process that a SIGTERM has ended."""
    with serving(tmp_path, source=HOLDING, DELAY="1", CAP="1") as service:
        service.waits_for("/readyz", 200)
        sent = service.signal()
        service.waits_for("/readyz", 503)
        stuck = service.connect()
        stuck.request("GET", "/hold")
        ended = service.ends(20)
        stuck.close()

        assert service.process.returncode == 128 + signal.SIGTERM
        assert 1.0 <= ended - sent < 12
        assert "the shutdown takes longer than its cap of 1 s" in service.log


# Without a server.

PLAIN = """
import asyncio, os, signal, sys, time
from otel_health import Checker
from otel_health.lifecycle import Drain

def say(word):
    with open(os.environ["SAID"], "a") as said:
        said.write(f"{time.monotonic()} {word}\\n")

async def main():
    async with Checker() as checker, Drain(checker, delay=0.5, cap=5.0) as drain:
        drain.hook(lambda: say("withdrawn"))
        checker.subscribe(lambda told: say(f"{told.component} {told.after}"))
        PREPARE
        say("running")
        try:
            WAIT
        finally:
            say("finally")
    say("left")

asyncio.run(main())
"""


def plain(prepare: str = "pass", wait: str = "await asyncio.sleep(3600)") -> str:
    """A program that drains and serves nobody."""
    return PLAIN.replace("PREPARE", prepare).replace("WAIT", wait)


def test_where_nobody_handles_it_the_signal_ends_the_process_after_the_delay(tmp_path: Path) -> None:
    """By the default action, as without us, so that the exit status says why."""
    with running(tmp_path, plain()) as program:
        program.hears("running")
        sent = program.signal()
        program.hears("drain fail")
        ended = program.ends()

        assert program.process.returncode == -signal.SIGTERM
        assert ended - sent >= 0.5
        assert "withdrawn" in program.said
        assert program.log == "drain: pass -> fail (failed: draining)\n"


def test_a_program_that_waits_for_the_end_ends_by_itself(tmp_path: Path) -> None:
    """It is told when the delay is over, and its cleaning up is not cut short."""
    with running(tmp_path, plain(wait="await drain.wait()")) as program:
        program.hears("running")
        sent = program.signal()
        program.ends()

        assert program.process.returncode == 0
        assert program.said["left"] > program.said["finally"] >= sent + 0.5


@pytest.mark.parametrize(
    "prepare",
    [
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); await drain.__aexit__(None, None, None); "
        "await drain.__aenter__()",
        "loop = asyncio.get_running_loop(); await drain.__aexit__(None, None, None); "
        "loop.add_signal_handler(signal.SIGTERM, lambda: sys.exit(7)); await drain.__aenter__()",
    ],
    ids=["signal", "loop"],
)
def test_a_handler_that_was_there_is_called_after_the_delay(tmp_path: Path, prepare: str) -> None:
    """Whether it was set for the process or on the loop."""
    with running(tmp_path, plain(prepare)) as program:
        program.hears("running")
        sent = program.signal()
        ended = program.ends()

        assert program.process.returncode == 7
        assert ended - sent >= 0.5


def test_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    """As without us, through the finally blocks."""
    with running(tmp_path, plain().replace("delay=0.5", "delay=60")) as program:
        program.hears("running")
        program.signal(signal.SIGINT)
        program.ends(20)

        assert {"finally", "withdrawn"} <= set(program.said)
        assert "KeyboardInterrupt" in program.log


def test_a_handler_that_came_later_stays(tmp_path: Path) -> None:
    """It is the application's own word, and is neither chained nor put away."""
    prepare = "signal.signal(signal.SIGTERM, later := lambda *_: os._exit(9)); await drain.__aexit__(None, None, None)"
    wait = "assert signal.getsignal(signal.SIGTERM) is later; say('still'); await asyncio.sleep(60)"
    with running(tmp_path, plain(prepare, wait)) as program:
        program.hears("still")
        program.signal()
        program.ends()

        assert program.process.returncode == 9


# In this process.


async def test_handlers_are_put_back() -> None:
    """Those of the process and those of the loop."""
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    async with Drain(Checker()):
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in before} == before

    loop.add_signal_handler(signal.SIGTERM, heard.append, "loop")
    try:
        async with Drain(Checker()):
            pass
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: heard == ["loop"])
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])


async def test_an_ignored_signal_stays_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Who ignores SIGINT has a reason, such as nohup."""
    caplog.set_level(logging.INFO, "otel_health")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        async with Drain(Checker()):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            await eventually(lambda: "SIGINT is left alone: it is ignored" in caplog.text)
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_begin_is_called_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and sets no handler."""
    caplog.set_level(logging.INFO, "otel_health")
    seen: list[Any] = []
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    async def serve() -> None:
        checker = Checker()
        async with checker, Drain(checker) as drain:
            seen.append([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)])
            drain.begin()
            seen.append((drain.is_draining, checker.report().status))

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    thread.join(20)

    assert seen == [handlers, (True, Status.FAIL)]
    assert [record.levelname for record in caplog.records if "main thread" in record.getMessage()] == ["INFO"]


@pytest.mark.virtual_time
async def test_begin_turns_every_probe_that_was_named_and_leaves_liveness() -> None:
    """Readiness probes of one's own turn, too."""
    checker = virtual_checker()
    checker.add("redis", passing(), probes={"traffic", "readyz", "livez"}, local=True)
    drain = Drain(checker, probes={"readyz", "traffic"})
    async with checker, drain:
        await asyncio.sleep(0.1)
        assert {probe: checker.report(probe).status.up for probe in ("readyz", "traffic", "livez")} == {
            "readyz": True,
            "traffic": True,
            "livez": True,
        }
        drain.begin()
        assert {probe: checker.report(probe).status.up for probe in ("readyz", "traffic", "livez")} == {
            "readyz": False,
            "traffic": False,
            "livez": True,
        }


@pytest.mark.parametrize("settled", [0.0, 1.0])
@pytest.mark.virtual_time
async def test_a_sigterm_after_begin_waits_for_what_is_left(settled: float) -> None:
    """A preStop hook and SIGTERM share one delay."""
    heard: list[float] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(now()))
    checker = virtual_checker()
    try:
        async with checker, Drain(checker, delay=10.0) as drain:
            if settled:
                await asyncio.sleep(settled)
            drain.begin()
            begun = now()
            await asyncio.sleep(4)
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(5.9)
            assert heard == []
            await asyncio.sleep(0.2)
            assert heard == [pytest.approx(begun + 10)]
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_hooks_are_bounded_and_their_failures_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """One that hangs, sync or async, and one that raises: the others run, and leaving takes no longer than one may."""
    caplog.set_level(logging.INFO, "otel_health")
    let_go = threading.Event()
    ran: list[str] = []

    async def hanging() -> None:
        await asyncio.Event().wait()

    async def fine() -> None:
        ran.append("fine")

    def exits() -> None:
        raise SystemExit("postgresql://orders:hunter2@db/orders")

    checker = Checker(trace="never")
    begun = now()
    async with Drain(checker, hooks=[hanging, let_go.wait, exits, fine, lambda: fine()], hook_timeout=1.0):
        pass

    assert now() - begun < 2 * 1.0
    assert ran == ["fine", "fine"]
    let_go.set()
    await eventually(lambda: caplog.text.count("the hook") == 3)
    assert "hunter2" not in caplog.text
    assert "raised SystemExit: postgresql://***@db/orders" in caplog.text
    assert caplog.text.count("did not end within 1 s of the drain") == 2


async def test_only_in_the_drain_answers_close_their_connection() -> None:
    """Whatever they said of it before, and only where HTTP has such a header."""
    checker = Checker()
    drain = Drain(checker)

    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello", headers={"connection": "keep-alive"})

    app = Starlette(routes=[Route("/", hello)], middleware=[Middleware(drain.middleware)])
    headers = []

    async def http2(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "http_version": "2"}, receive, send)

    async with drain:
        for served in (app, http2):
            for begins in (False, True):
                if begins:
                    drain.begin()
                async with AsyncClient(transport=ASGITransport(app=served), base_url="http://orders") as client:
                    headers.append((await client.get("/")).headers.get_list("connection"))

    assert headers == [["keep-alive"], ["close"], ["keep-alive"], ["keep-alive"]]


async def test_a_drain_may_be_entered_again() -> None:
    """As a Checker may be opened again; but not twice at a time."""
    checker = Checker()
    drain = Drain(checker)
    for _ in range(2):
        async with drain:
            assert checker.report().status is Status.PASS
            with pytest.raises(RuntimeError, match="entered already"):
                await drain.__aenter__()
        assert checker.report().status is Status.FAIL


async def test_a_second_drain_in_a_process_is_refused() -> None:
    """Their delays would add up; once the first is left, another may be entered."""
    first, second = Drain(Checker()), Drain(Checker())
    async with first:
        with pytest.raises(RuntimeError, match="their delays would add up"):
            await second.__aenter__()
    async with second:
        assert second.gate.is_open


@pytest.mark.parametrize("probe", ["livez", "startupz"])
def test_a_probe_that_would_have_it_killed_is_refused(probe: str) -> None:
    """Whoever drains is alive."""
    with pytest.raises(ValueError, match=probe):
        Drain(Checker(), probes={"readyz", probe})


async def test_without_a_thread_for_its_last_resort_the_drain_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has none left; the signal is passed on all the same."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    passed_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(passed_on.set))
    try:
        checker = Checker()
        async with checker, Drain(checker, delay=0.1):
            monkeypatch.setattr(threading.Timer, "start", refuse)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(passed_on.wait(), 5)
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_wait_that_was_given_up_is_no_promise() -> None:
    """Who no longer waits does not end the program."""
    checker = Checker()
    async with checker, Drain(checker) as drain:
        waiting = asyncio.ensure_future(drain.wait())
        await asyncio.sleep(0)
        assert drain._awaited == 1  # noqa: SLF001 - what a signal would be judged by.
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert drain._awaited == 0  # noqa: SLF001


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": -1}, "Drain: delay=-1 must be a positive"),
        ({"delay": True}, "Drain: delay=True must be a positive"),
        ({"cap": 0}, "Drain: cap=0 must be a positive"),
        ({"hook_timeout": float("inf")}, "Drain: hook_timeout=inf must be a positive"),
        ({"hooks": ["withdraw"]}, "Drain: the hook 'withdraw' cannot be called"),
        ({"name": "no way"}, "'no way' cannot name a check"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: str) -> None:
    """Where it is written."""
    with pytest.raises((ValueError, TypeError), match=error):
        Drain(Checker(), **options)
