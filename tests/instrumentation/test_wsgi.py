"""Health in front of WSGI applications, whose checks run in a thread of ours."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import uvicorn

from otel_health_instrumentation import HealthInstrumentor, HealthMiddleware, HealthWSGIMiddleware, guard, wsgi
from otel_health_instrumentation.pages import SEEN
from tests.doubles import failing, hanging
from tests.instrumentation.conftest import Instrument
from tests.instrumentation.processes import in_fresh_interpreter

flask = pytest.importorskip("flask")

PROBES = ("/livez", "/readyz", "/startupz", "/healthz")


def raw(_: dict[str, Any], start_response: Any) -> list[bytes]:
    """An application without any framework."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def flask_app() -> Any:
    """As its tutorial has it."""
    app = flask.Flask("orders")
    app.get("/")(lambda: "hello")
    return app


class Answer:
    """What a WSGI application has answered."""

    def __init__(self, app: Any, path: str, **environ: str) -> None:
        asked: dict[str, Any] = {"PATH_INFO": path, **environ}
        setup_testing_defaults(asked)
        self.body = b"".join(app(asked, self._start)).decode()

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        self.status = int(status.split()[0])
        self.headers = dict(headers)


def answered(app: Any, path: str, until: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer is so, for five seconds at most."""
    deadline = time.monotonic() + 5
    while not until(answer := Answer(app, path)):
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.005)
    return answer


@pytest.mark.parametrize("make", [flask_app, lambda: HealthWSGIMiddleware(raw)])
def test_every_probe_is_there_without_a_changed_line(make: Any, instrument: Instrument) -> None:
    """And the metrics; the application goes on answering what is its own."""
    instrument()
    app = make()

    assert {path: Answer(app, path).status for path in PROBES} == dict.fromkeys(PROBES, 200)
    assert 'otel_health_probe_up{probe="readyz"} 1.0' in Answer(app, "/metrics").body
    assert Answer(app, "/").body == "hello"


def test_it_is_the_answer_that_everybody_gives(instrument: Instrument) -> None:
    """Headers, methods, formats, components, details: rendered in one place."""
    token = "0123456789abcdef"
    instrument(token=token).add("database", failing(ConnectionError("no")))
    app = flask_app()
    answer = answered(app, "/readyz", lambda answer: '"failed"' in answer.body)

    assert answer.status == 503
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/health+json"
    assert Answer(app, "/readyz", REQUEST_METHOD="HEAD").body == ""
    assert Answer(app, "/readyz", REQUEST_METHOD="POST").status == 405
    assert Answer(app, "/readyz", HTTP_ACCEPT="text/plain").body.startswith("[-]database failed")
    assert Answer(app, "/readyz", QUERY_STRING="exclude=database&verbose").status == 200
    assert Answer(app, "/readyz/database").status == 503
    assert Answer(app, "/readyz/nobody").status == 404
    assert "consecutiveFailures" in Answer(app, "/readyz", HTTP_AUTHORIZATION=f"Bearer {token}").body


def test_the_applications_own_route_is_left_alone(instrument: Instrument) -> None:
    """It was there first."""
    instrument()
    app = flask_app()
    app.add_url_rule("/readyz", "ready", lambda: "mine")
    app.add_url_rule("/healthz/ready", "below", lambda: "mine")

    assert Answer(app, "/readyz").body == "mine"
    assert Answer(app, "/livez").status == 200
    assert Answer(app, "/healthz/ready").body == "mine"
    assert Answer(app, "/healthz").status == 200


def test_a_strict_server_and_a_strict_application_find_nothing_wrong(instrument: Instrument) -> None:
    """Neither with what we leave in the request nor with what we answer (PEP 3333)."""
    instrument()
    app = validator(HealthWSGIMiddleware(validator(raw)))

    for path in ("/livez", "/metrics", "/"):
        for method in ("GET", "HEAD"):
            environ: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": ""}
            environ["REQUEST_METHOD"] = method
            setup_testing_defaults(environ)
            answer = app(environ, lambda *_: lambda _: None)
            body = b"".join(answer)
            answer.close()  # type: ignore[attr-defined] # The validator's answers have it.
            assert bool(body) is (method == "GET" or path == "/")


def test_a_prefix_may_have_any_letters(instrument: Instrument) -> None:
    """WSGI has their bytes in disguise."""
    instrument(prefix="/santé")
    app = flask_app()

    assert [Answer(app, "/santé/livez".encode().decode("latin-1")).status for _ in range(2)] == [200, 200]


def test_the_checks_run_from_the_first_request(instrument: Instrument) -> None:
    """In a daemon thread, on an event loop: what is not asked is renewed all the same."""
    checker = instrument(interval=0.02)
    runs = []
    checker.add("database", lambda: runs.append(threading.current_thread().daemon))
    app = flask_app()
    assert not checker.is_open

    Answer(app, "/")

    deadline = time.monotonic() + 5
    while len(runs) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert all(runs)


def test_a_hanging_check_holds_nobody_up(instrument: Instrument) -> None:
    """A probe answers within its budget, whatever its checks do."""
    instrument(timeout=30).add("database", hanging())
    app = flask_app()
    begun = time.monotonic()

    assert '"pending"' in Answer(app, "/readyz").body
    assert time.monotonic() - begun < 5


def test_a_thread_that_is_stuck_restarts_nobody(instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that blocks the loop of our thread: probes answer in time from the state, and are not failed by it."""
    monkeypatch.setattr(wsgi, "METRICS_SECONDS", 0.1)
    blocked, over = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        over.wait(30)

    checker = instrument(answer_within=0.1)
    checker.add("database", block)
    app = flask_app()
    Answer(app, "/")
    assert blocked.wait(10)
    try:
        begun = time.monotonic()
        statuses = {path: Answer(app, path).status for path in ("/livez", "/readyz/", "/livez/database", "/metrics")}
        assert time.monotonic() - begun < 5
        assert statuses == {"/livez": 200, "/readyz/": 503, "/livez/database": 404, "/metrics": 503}
        assert Answer(app, "/readyz/database").status == 503
        assert Answer(app, "/readyz", QUERY_STRING="exclude=database").status == 200
        assert Answer(app, "/readyz", QUERY_STRING="exclude=x&" * 1000).status == 400
        assert Answer(app, "/livez").headers["cache-control"] == "no-store"
        assert Answer(app, "/").body == "hello"
    finally:
        over.set()


def test_a_thread_that_is_stuck_tells_nobody_of_components(instrument: Instrument) -> None:
    """Where the status alone may be seen, there is none to be asked for."""
    blocked, over = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        over.wait(30)

    instrument(answer_within=0.1, details="status").add("database", block)
    app = flask_app()
    Answer(app, "/")
    assert blocked.wait(10)
    try:
        assert Answer(app, "/readyz/database").status == 404
        assert Answer(app, "/readyz", QUERY_STRING="exclude=database").status == 503
    finally:
        over.set()


@pytest.mark.parametrize(
    ("module", "question"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_where_no_thread_is_real_nothing_is_started(
    module: str,
    question: str,
    instrument: Instrument,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An event loop there would be in the application's own thread, and `asyncio.run` would fail for it."""
    monkeypatch.setitem(sys.modules, module, cast("ModuleType", SimpleNamespace(**{question: lambda _: True})))
    monkeypatch.setattr(guard, "_told", set())
    checker = instrument()
    app = flask_app()

    assert [Answer(app, path).status for path in ("/", "/livez", "/")] == [200, 404, 200]
    assert not checker.is_open
    (line,) = caplog.messages
    assert "use sync, threaded or gevent workers" in line


GEVENT = """
from otel_health_instrumentation import HealthInstrumentor
from gevent import monkey, spawn
monkey.patch_all()
import asyncio, socket, threading, time
import redis
from tests.instrumentation.test_wsgi import Answer, answered, flask_app
main, connected_in = threading.get_native_id(), set()
class Connection(redis.Connection):
    def connect(self):
        connected_in.add(threading.get_native_id())
        super().connect()
silent = socket.create_server(("127.0.0.1", 0))
HealthInstrumentor().instrument(interval=0.1, timeout=0.5, critical=["redis-*"])
pool = redis.ConnectionPool(connection_class=Connection, host="127.0.0.1", port=silent.getsockname()[1])
app = flask_app()
failed = answered(app, "/readyz", lambda answer: answer.status == 503 and '"pending"' not in answer.body)
ticks = []
ticking = spawn(lambda: [ticks.append(time.sleep(0.01)) for _ in range(20)])
said = asyncio.run(asyncio.sleep(0, "an event loop of the application's own"))
ticking.join()
print(failed.status, len(ticks), connected_in == {main}, said)
HealthInstrumentor().uninstrument()
"""


def test_gevent_has_the_checks_in_a_thread_and_the_clients_in_its_greenlets() -> None:
    """Of a server that says nothing: a check waits for it in the application's thread, and holds up nobody there."""
    pytest.importorskip("gevent")

    assert in_fresh_interpreter(GEVENT) == "503 20 True an event loop of the application's own"


def test_an_open_checker_is_read_where_it_runs(instrument: Instrument) -> None:
    """A WSGI application inside an ASGI server: the loop there has the checks, and no second one starts them."""
    checker = instrument()
    app = flask_app()

    async def served() -> Answer:
        async with checker:
            return await asyncio.to_thread(Answer, app, "/readyz")

    assert asyncio.run(served()).status == 200


def test_nothing_is_left_of_the_thread(instrument: Instrument, threads: Callable[[], int]) -> None:
    """It ends with the instrumentation, and its metrics with it; twice over."""
    for _ in range(2):
        checker = instrument()
        app = flask_app()
        assert Answer(app, "/livez").status == 200
        HealthInstrumentor().uninstrument()
        assert not checker.is_open
        assert Answer(app, "/livez").status == 404
    deadline = time.monotonic() + 15
    while threads():
        assert time.monotonic() < deadline
        time.sleep(0.05)


FORKED = """
import os
import time
from otel_health_instrumentation import HealthInstrumentor
from tests.instrumentation.test_wsgi import Answer, flask_app
HealthInstrumentor().instrument()
app = flask_app()
print(Answer(app, "/readyz").status, HealthInstrumentor().checker.is_open, flush=True)
child = os.fork()
if child == 0:
    checker = HealthInstrumentor().checker
    print(checker.is_open, Answer(app, "/").status, flush=True)
    while not checker.is_open:
        time.sleep(0.01)
    print(Answer(app, "/readyz").status, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(Answer(app, "/readyz").status)
"""


def test_a_fork_begins_anew() -> None:
    """Even where the parent has answered before: a request starts the child's own thread, the parent keeps its."""
    assert in_fresh_interpreter(FORKED).splitlines() == ["200 True", "False 200", "200", "200"]


@pytest.mark.filterwarnings("ignore:Uvicorn's native WSGI:DeprecationWarning")
def test_an_asgi_server_has_them_in_front_of_a_wsgi_application(instrument: Instrument) -> None:
    """On its own event loop: that calls of the application are led through ours anyway is no reason not to."""
    instrument()
    config = uvicorn.Config(flask_app(), interface="wsgi")
    config.load()
    assert isinstance(config.loaded_app, HealthMiddleware)


def test_only_the_outermost_answers(instrument: Instrument) -> None:
    """What is mounted in an application is a part of it."""
    dispatcher = pytest.importorskip("werkzeug.middleware.dispatcher").DispatcherMiddleware
    instrument()
    app = HealthWSGIMiddleware(dispatcher(raw, {"/shop": flask_app()}))
    assert [Answer(app, path).status for path in ("/livez", "/shop/", "/shop/livez")] == [200, 200, 404]
    assert Answer(app, "/shop/livez").status == 404


def test_not_within_an_asgi_application(instrument: Instrument, threads: Callable[[], int]) -> None:
    """What adapts one to the other hands on the request that it was given, where we have left our mark."""
    instrument()
    inside: dict[str, Any] = {"asgi.scope": {SEEN: True}}

    assert [Answer(flask_app(), path, **inside).status for path in ("/livez", "/metrics", "/")] == [404, 404, 200]
    assert threads() == 0


DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["orders.example"], SECRET_KEY="x",
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware"], SECURE_SSL_REDIRECT=True)
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse("hello"))]
from otel_health_instrumentation import HealthInstrumentor
HealthInstrumentor().instrument()
from django.core.wsgi import get_wsgi_application
from tests.instrumentation.test_wsgi import Answer
app = get_wsgi_application()
print(Answer(app, "/").status, [Answer(app, each).status for each in ("/livez", "/readyz", "/metrics", "/other")])
"""


def test_django_outside_of_its_hosts_and_redirects() -> None:
    """Kubernetes asks at an address that nobody has listed, and without TLS: to others that is a bad request."""
    pytest.importorskip("django")

    assert in_fresh_interpreter(DJANGO) == "400 [200, 200, 200, 400]"


def test_nobody_is_ready_before_a_critical_client_was_looked_at(instrument: Instrument) -> None:
    """The first request starts the checks, and may be the one that asks."""
    redis = pytest.importorskip("redis")
    instrument(critical=["redis-*"])
    client = redis.Redis(host="127.0.0.1", port=1)

    assert Answer(flask_app(), "/readyz").status == 503
    del client
