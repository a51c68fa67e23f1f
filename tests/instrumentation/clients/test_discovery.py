"""Which clients become checks, for how long, and under which names."""

import dataclasses
import gc
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
import redis
import redis.asyncio
import sqlalchemy
import sqlalchemy.ext.asyncio
from redis.connection import ConnectionPool

from otel_health import Checker
from otel_health_instrumentation.clients import TECHNOLOGIES, Clients, living
from otel_health_instrumentation.clients.living import LIVES, SETTLES
from otel_health_instrumentation.clients.technology import Server, server
from tests.doubles import eventually
from tests.instrumentation.clients.watched import watching


def test_a_client_that_stays_is_a_check() -> None:
    """One that has lived for a second, and not before; it is not critical."""
    with watching("redis") as application:
        client = redis.Redis("cache.internal", 6380, db=2)

        assert application.names(after=LIVES / 2) == set()
        assert application.names(after=LIVES / 2) == {"redis-cache.internal-6380-2"}
        assert application.checker.get("redis-cache.internal-6380-2").critical is False
        del client


def test_a_client_that_is_gone_is_no_check_any_more() -> None:
    """It is held weakly; whoever looks next sees that it is gone."""
    with watching("redis") as application:
        client = redis.Redis()
        assert application.names() == {"redis-localhost-6379-0"}

        del client
        gc.collect()

        assert application.names(after=0) == set()


async def test_the_end_of_a_client_is_noticed_without_anybody_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its check is gone in a moment, although the next look is far away."""
    monkeypatch.setattr(living, "LIVES", 60.0)
    with watching("redis") as application:
        client = redis.Redis()
        assert application.names(after=60.0) == {"redis-localhost-6379-0"}
        wake = application.clients._living._wake  # noqa: SLF001 - what woke the thread before is none of it.
        while not wake.empty():
            wake.get_nowait()
        application.clients.watch()

        del client
        gc.collect()

        await eventually(lambda: application.checker.names == (), seconds=20)


async def test_a_client_that_stays_is_found_without_anybody_looking() -> None:
    """A thread looks: in real time, and it ends when nobody is watched any more."""
    checker = Checker()
    clients = Clients(checker)
    clients.instrument()
    clients.watch()
    engine = sqlalchemy.create_engine("sqlite:///orders.sqlite3")

    await eventually(lambda: checker.names != ())
    clients.uninstrument()

    assert checker.names == ()
    await eventually(lambda: not [each for each in threading.enumerate() if each.name == "otel_health-clients"])
    del engine


def test_a_client_that_lives_for_less_than_a_second_never_is_one() -> None:
    """Nothing is registered for a client of one request."""
    with watching("redis") as application:
        for _ in range(3):
            client = redis.Redis()
            assert application.names(after=LIVES * 0.9) == set()
            del client
            gc.collect()


def test_the_pool_counts_and_not_the_client_around_it() -> None:
    """A client made for every request, around one pool: the pool stays."""
    with watching("redis") as application:
        pool = ConnectionPool(host="cache", port=6379)
        for _ in range(3):
            redis.Redis(connection_pool=pool)
            assert application.names() == {"redis-cache-6379-0"}


def test_clients_of_one_server_are_one_check() -> None:
    """It is there as long as one of them is."""
    with watching("redis") as application:
        first, second = redis.Redis(password="old"), redis.asyncio.Redis(password="new")
        assert application.names() == {"redis-localhost-6379-0"}

        del first
        gc.collect()
        assert application.names() == {"redis-localhost-6379-0"}

        del second
        gc.collect()
        assert application.names() == set()


async def test_the_newest_client_is_asked() -> None:
    """Its settings are those in force: an older one may hold a password that was changed."""
    with watching() as application:
        older = sqlalchemy.create_engine("sqlite:///orders.sqlite3", creator=_refused)
        assert application.names() == {NAMED_BY_PATH}
        assert await application.status(NAMED_BY_PATH) == "fail"

        newer = sqlalchemy.create_engine("sqlite:///orders.sqlite3", creator=_in_memory)
        application.names()
        assert await application.status(NAMED_BY_PATH) == "pass"

        newer.dispose()
        del newer
        gc.collect()
        assert await application.status(NAMED_BY_PATH) == "fail"
        del older


async def test_where_only_drivers_know_the_server_all_clients_are_asked() -> None:
    """They may speak to different ones: the failure of one is not to be hidden by another that was made later."""
    asked: list[str] = []

    def up() -> Any:
        asked.append("up")
        return MagicMock()

    def down() -> Any:
        asked.append("down")
        raise ConnectionRefusedError("no")

    with watching("sqlalchemy") as application:
        working = sqlalchemy.create_engine("postgresql+psycopg://", creator=up, _initialize=False)
        application.names()
        assert await application.status("postgresql-default") == "pass"
        engines = [
            sqlalchemy.create_engine("postgresql+psycopg://", creator=each, _initialize=False) for each in (down, up)
        ]
        application.names()
        asked.clear()
        assert await application.status("postgresql-default") == "fail"
        assert set(asked) == {"up", "down"}
        del engines, working
    gc.collect()


NAMED_BY_PATH = Server("sqlite", "", None, "orders.sqlite3").name


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


def _refused() -> Any:
    raise ConnectionRefusedError("no")


async def test_a_client_that_goes_before_it_is_asked_takes_its_check_along() -> None:
    """Nobody is told that a component fails which is not there any more."""
    told: list[object] = []
    with watching("redis") as application:
        application.checker.subscribe(told.append)
        client = redis.Redis()
        assert application.names() == {"redis-localhost-6379-0"}

        del client
        gc.collect()
        await application.checker.run()
        assert application.checker.names == ()

    assert told == []


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: redis.Redis.from_url("rediss://orders:s3cret@Cache:6390/4"), "redis-cache-6390-4"),
        (lambda: redis.Redis(unix_socket_path="/run/redis.sock"), "redis-run-redis.sock-0-6c31dd"),
        (lambda: redis.asyncio.Redis(host="::1", password="s3cret"), "redis-1-6379-0-b0b409"),
        (lambda: _sentinel(), "redis-orders-0"),
        (lambda: _engine("postgresql+psycopg://orders:s3cret@db/orders"), "postgresql-db-5432-orders"),
        (lambda: _engine("postgresql+psycopg://orders:s3cret@db:5433/orders"), "postgresql-db-5433-orders"),
        (lambda: _engine("postgresql+psycopg://orders:s3cret@/orders?host=a:1&host=b:2"), None),
        (lambda: _engine("postgresql+psycopg://?service=orders"), "postgresql-orders"),
        (lambda: _engine("postgresql+psycopg:///shop?service=orders"), "postgresql-orders-shop"),
        (lambda: _engine("postgresql+psycopg://?dsn=host%3Da+password%3Ds3cret"), "postgresql-default"),
        (lambda: _engine("postgresql+psycopg://orders:a@s3cret@db/orders"), "postgresql-default"),
        (lambda: _engine("postgresql+psycopg:///host=db password=s3cret"), "postgresql-default"),
        (lambda: redis.Redis("redis://:s3cret@cache:6379/0"), "redis-default"),
        (lambda: _engine("mysql+pymysql://orders:s3cret@db/orders"), "mysql-db-3306-orders"),
        (lambda: _engine("sqlite:////srv/orders.db"), "sqlite-srv-orders.db-89e289"),
        (lambda: _engine("sqlite://"), None),
        (
            lambda: sqlalchemy.ext.asyncio.create_async_engine("postgresql+asyncpg://orders:s3cret@db/orders"),
            "postgresql-db-5432-orders",
        ),
    ],
)
def test_a_name_says_which_server_and_no_secret(make: Callable[[], object], name: str | None) -> None:
    """The same after every restart, so that it can be promoted and drawn."""
    with watching() as application:
        client = make()
        names = application.names()

    assert name is None or name in names
    assert "s3cret" not in str(names)
    del client


def _sentinel() -> Any:
    sentinel: Any = redis.Sentinel([("s1", 1)], password="s3cret")  # type: ignore[no-untyped-call]
    return sentinel.master_for("orders")


def _engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url)


def test_what_was_different_stays_so_in_its_name() -> None:
    """Letters that a name may not hold, letters of another case, and what is too long: a digest tells them apart."""
    told_apart = [
        server("sqlite", "", None, "/srv/a/b"),
        server("sqlite", "", None, "/srv/a-b"),
        server("postgresql", "db", 5432, "orders"),
        server("postgresql", "db", 5432, "Orders"),
        server("postgresql", "x" * 80 + "1", 5432),
        server("postgresql", "x" * 80 + "2", 5432),
    ]

    names = {each.name.casefold() for each in told_apart}

    assert len(names) == len(told_apart)
    for name in names:
        Checker().add(name, lambda: None)


def test_those_that_are_promoted_are_critical_and_need_not_wait() -> None:
    """By name or pattern; readiness is not to pass while nobody has looked at them."""
    with watching("redis", critical=["redis-a-6379-0", "redis-b-*"]) as application:
        clients = [redis.Redis(host) for host in "abc"]

        assert application.names(after=SETTLES) == {"redis-a-6379-0", "redis-b-6379-0"}
        assert application.names() == {"redis-a-6379-0", "redis-b-6379-0", "redis-c-6379-0"}
        critical = {name for name in application.checker.names if application.checker.get(name).critical}
        assert critical == {"redis-a-6379-0", "redis-b-6379-0"}
        del clients


def test_a_name_that_promotes_nobody_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Who writes `redis` for every Redis is told, once for each that it does not promote."""
    with watching("redis", critical=["Redis", "redis-a-*", "postgres"]) as application:
        clients = [redis.Redis(host) for host in "ab"]
        application.names()
        application.names()
        del clients

    assert [line for line in caplog.messages if "critical" in line] == [
        "health: redis-b-6379-0 only warns, for critical=Redis is no name of it; did you mean redis*?"
    ]


def test_processes_that_never_serve_keep_nothing_of_clients_that_are_gone() -> None:
    """As a worker of Celery that makes one for each task; those that live are in the order in which they were made."""
    with watching("redis") as application:
        kept = [ConnectionPool(host="cache") for _ in range(3)]
        for _ in range(8):
            for _ in range(50):
                ConnectionPool(host="task")
            gc.collect()
        kept += [ConnectionPool(host="cache") for _ in range(2)]
        alive = application.clients._living  # noqa: SLF001 - there is no other way to see what is kept, here and below.

        assert len(alive._new) < 150  # noqa: SLF001
        assert alive._wake.qsize() == 1  # noqa: SLF001
        assert application.names() == {"redis-cache-6379-0"}
        (asked,) = alive.components.values()
        assert [each.reference() for each in asked] == kept


def test_what_a_client_speaks_to_is_asked_of_those_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may cost a look at the whole heap; where something is critical it is asked before."""
    asked: list[object] = []
    (redis_like,) = (each for each in TECHNOLOGIES.values() if each.name == "redis")

    def ask(pool: object) -> Server | None:
        asked.append(pool)
        return redis_like.server(pool)

    spying = dataclasses.replace(redis_like, server=ask)
    monkeypatch.setitem(TECHNOLOGIES, "redis", spying)
    for critical, after in (((), LIVES), (("redis-*",), SETTLES)):
        asked.clear()
        with watching("redis", critical=critical) as application:
            pool = ConnectionPool(host="cache")
            application.names(after=after * 0.9)
            assert pool not in asked
            application.names(after=after * 0.2)
            assert pool in asked
            del pool
            asked.clear()


def test_clients_made_earlier_are_found() -> None:
    """Whatever was imported and made before the instrumentation came."""
    engine = _engine("postgresql+psycopg://early/orders")

    with watching() as application:
        assert "postgresql-early-5432-orders" in application.names()
    del engine


def in_fresh_interpreter(program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in an interpreter of its own, which finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def test_classes_that_cannot_be_keys_hide_nobody() -> None:
    """A metaclass that says when its classes are equal, and no more, has such."""

    class Compared(type):
        def __eq__(cls, other: object) -> bool:
            return cls is other

        __hash__ = None  # type: ignore[assignment] # As Python has it for whoever defines the one alone.

    odd = Compared("Odd", (), {})()
    early = redis.Redis("early")
    with watching("redis") as application:
        assert "redis-early-6379-0" in application.names()
    del odd, early


def test_a_module_imported_later_is_hooked_then() -> None:
    """Nothing is imported for it, and the application's own import works as ever."""
    program = """
import sys
from otel_health import Checker
from otel_health_instrumentation.clients import Clients
clients = Clients(checker := Checker())
clients.instrument()
loaded = {"redis", "sqlalchemy", "valkey", "asyncpg", "psycopg_pool", "aio_pika", "aiokafka", "confluent_kafka", "grpc"}
assert not loaded & set(sys.modules)
import redis
client = redis.Redis()
import time; time.sleep(1.1)
clients.look()
print(*checker.names)
"""
    ended = in_fresh_interpreter(program)

    assert (ended.stdout, ended.stderr) == ("redis-localhost-6379-0\n", "")


def test_a_forked_child_watches_what_it_inherited() -> None:
    """Clients made before the fork become checks in the child, whose thread is its own."""
    program = """
import gc, os, time
from otel_health import Checker
from otel_health_instrumentation.clients import Clients
import redis
clients = Clients(checker := Checker())
clients.instrument()
client = redis.Redis()
if os.fork():
    os.wait()
else:
    clients.watch()
    deadline = time.monotonic() + 10
    while not checker.names and time.monotonic() < deadline:
        time.sleep(0.01)
    print(*checker.names, flush=True)
    del client
    gc.collect()
    while checker.names and time.monotonic() < deadline:
        time.sleep(0.01)
    print("gone" if not checker.names else "left", flush=True)
    os._exit(0)
"""
    ended = in_fresh_interpreter(program)

    assert (ended.stdout, ended.stderr) == ("redis-localhost-6379-0\ngone\n", "")


def test_only_the_technologies_that_are_asked_for() -> None:
    """The others are left alone; one that nobody knows is refused by name."""
    with watching("redis") as application:
        kept = redis.Redis(), _engine("postgresql+psycopg://db/orders")
        assert application.names() == {"redis-localhost-6379-0"}

    with pytest.raises(ValueError, match=r"'reddis' is not known; there are .*redis"):
        Clients(Checker(), technologies=["reddis"])
    del kept


def test_a_check_of_the_applications_own_keeps_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """What the application says of a component is better than what we could find out."""
    checker = Checker()
    checker.add("redis-localhost-6379-0", lambda: None, critical=True)
    with watching("redis", checker=checker) as application:
        client = redis.Redis()
        application.names()
        application.names()
        assert checker.get("redis-localhost-6379-0").critical is True
        del client
        gc.collect()
        assert application.names() == {"redis-localhost-6379-0"}

    assert sum("already registered" in each.message for each in caplog.records) <= 1


def test_a_fault_of_ours_is_one_log_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's own call goes on, a hundred times."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    with watching("redis") as application, caplog.at_level(logging.WARNING):
        monkeypatch.setattr(application.clients._living, "add", broken)  # noqa: SLF001 - a fault is needed somewhere.
        clients = [redis.Redis() for _ in range(100)]

    assert len(clients) == 100
    assert [each.message for each in caplog.records] == [
        "health: could not notice a new ConnectionPool: ZeroDivisionError: ours"
    ]


def test_what_the_applications_constructor_raises_is_raised() -> None:
    """And nothing else."""
    with watching("redis"), pytest.raises(ValueError, match="max_connections"):
        ConnectionPool(max_connections=-1)


def test_an_engine_takes_every_option_that_it_took_before() -> None:
    """SQLAlchemy reads in the code of the constructors which options are the engine's, and refuses the others."""
    options = {"echo": False, "hide_parameters": True, "logging_name": "orders", "execution_options": {"orders": 1}}
    with watching("sqlalchemy"), watching("sqlalchemy"):
        engine = sqlalchemy.create_engine("sqlite://", **options, poolclass=sqlalchemy.StaticPool)

    assert (engine.hide_parameters, engine.logging_name) == (True, "orders")


def test_nothing_is_left_twice_over() -> None:
    """Instrumented and uninstrumented again and again, the classes are what they were."""
    classes = [
        vars(sys.modules[module])[name]
        for technology in TECHNOLOGIES.values()
        for module, names in technology.classes.items()
        if module in sys.modules
        for name in names
    ]

    def standing() -> list[dict[str, int]]:
        # A wrapper says that it equals what it wraps.
        return [{name: id(stored) for name, stored in vars(each).items()} for each in classes]

    before = standing()

    for _ in range(2):
        with watching() as application:
            application.clients.instrument()
            assert standing() != before
        application.clients.uninstrument()
        assert standing() == before


def test_two_that_watch_do_not_disturb_each_other() -> None:
    """Whoever came first may go first."""
    with watching("redis") as second:
        with watching("redis") as first:
            client = redis.Redis()
            assert first.names() == {"redis-localhost-6379-0"}
        assert second.names() == {"redis-localhost-6379-0"}
        del client
