"""How clients are asked: where they belong, and what their servers say."""

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

import asyncpg
import confluent_kafka
import grpc
import grpc.aio
import psycopg_pool
import pytest
import redis.asyncio
import sqlalchemy.ext.asyncio

from otel_health import completes
from otel_health_instrumentation.clients.hooks import needs_stand_in, on_made, stand_before, when_imported
from tests.checks import clients
from tests.instrumentation.clients.watched import watching
from tests.servers import shared_postgres


@contextmanager
def loop_elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread, as that of an application beside a Checker of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def there(loop: asyncio.AbstractEventLoop, call: Any) -> Any:
    """Await something on another loop."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))


async def pool_of_asyncpg(port: int) -> Any:
    """A pool that belongs to the loop on which it is made."""
    options: Any = {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}
    return await asyncpg.create_pool(min_size=1, max_size=2, **options)


async def pool_of_psycopg(port: int) -> Any:
    """A pool that belongs to the loop on which it is opened."""
    dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    pool = psycopg_pool.AsyncConnectionPool(dsn, open=False, min_size=1, max_size=2)
    await pool.open()
    return pool


@pytest.mark.parametrize(("technology", "made"), [("asyncpg", pool_of_asyncpg), ("psycopg", pool_of_psycopg)])
async def test_an_asyncio_client_is_asked_on_its_own_loop(technology: str, made: Callable[[int], Any]) -> None:
    """The Checker runs on another loop; while the client's does not run, it is no component."""
    port = shared_postgres()
    with watching(technology) as application, loop_elsewhere() as loop:
        pool = await there(loop, made(port))
        name = f"postgresql-127.0.0.1-{port}-postgres"
        assert name in application.names()

        for _ in range(3):
            assert await application.status(name) == "pass"

        await there(loop, pool.close())
        assert name not in application.names()
        del pool
        gc.collect()


async def test_a_loop_that_does_not_run_cannot_be_asked() -> None:
    """Nor is a client of it touched; where its loop was closed it never comes back."""
    port = shared_postgres()
    with watching("asyncpg") as application:
        with loop_elsewhere() as loop:
            pool = await there(loop, pool_of_asyncpg(port))
            assert application.names() == {f"postgresql-127.0.0.1-{port}-postgres"}
            await there(loop, pool.close())
        assert application.names() == set()
        del pool


def test_what_nobody_comes_to_await_was_never_begun() -> None:
    """Where a loop ends while a client is about to be asked there is nothing that Python would warn of."""
    with watching("redis") as application:
        client = redis.asyncio.Redis()
        (name,) = application.names()

        assert inspect.isawaitable(application.checker.get(name).function())
        gc.collect()
        del client


async def test_the_pool_of_an_async_engine_is_not_touched() -> None:
    """Its connections belong to whoever uses it first, on whichever loop: a check opens and closes one of its own."""
    port = shared_postgres()
    url = f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
    with watching("sqlalchemy") as application, loop_elsewhere() as loop:
        engine = sqlalchemy.ext.asyncio.create_async_engine(url)
        name = f"postgresql-127.0.0.1-{port}-postgres"
        application.names()

        assert await application.status(name) == "pass"
        assert "Connections in pool: 0" in engine.pool.status()

        async def use() -> object:
            async with engine.connect() as connection:
                return await connection.scalar(sqlalchemy.text("SELECT 1"))

        assert await there(loop, use()) == 1
        assert await application.status(name) == "pass"
        assert await there(loop, use()) == 1
        await there(loop, engine.dispose())


async def test_what_a_check_makes_is_no_client() -> None:
    """Nor is what is made in a check of the application's own."""
    with watching("redis") as application:
        kept: list[object] = []
        application.checker.add("own", completes(lambda: kept.append(redis.Redis("own"))))
        await application.checker.run()

        assert len(kept) == 1
        assert application.names() == {"own"}
        kept.clear()


# gRPC.


@contextmanager
def serving(*handlers: grpc.GenericRpcHandler) -> Iterator[int]:
    """A gRPC server without the health service."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


class Refusing(grpc.GenericRpcHandler):  # type: ignore[misc] # It is untyped.
    """Refuses whoever has not said who it is."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def service(self, _: Any) -> Any:
        """Answer every call so."""
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(self._code, "no"))


@pytest.mark.parametrize(
    ("code", "status"),
    [(None, "pass"), ("UNAUTHENTICATED", "pass"), ("PERMISSION_DENIED", "pass"), ("UNAVAILABLE", "fail")],
)
async def test_a_grpc_server_that_does_not_speak_of_its_health_is_there(code: str | None, status: str) -> None:
    """Most have no health service: by saying so they prove that the channel works."""
    handlers = [Refusing(grpc.StatusCode[code])] if code else []
    with watching("grpc") as application, serving(*handlers) as port:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            application.names()
            assert await application.status(f"grpc-127.0.0.1-{port}") == status
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel_async:
            application.names()
            assert await application.status(f"grpc-127.0.0.1-{port}") == status
        del channel, channel_async
        gc.collect()


EXPORTS = """
import grpc
def connect(target):
    return grpc.insecure_channel(target)
"""


def test_the_channel_that_an_exporter_makes_is_no_component(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on it. To tell, the heap is not looked through: for hundreds of channels that takes seconds."""
    exporter: dict[str, Any] = {"__name__": "opentelemetry.exporter.otlp.proto.grpc.exporter"}
    exec(EXPORTS, exporter)
    with watching("grpc") as application, monkeypatch.context() as patch:
        patch.delattr(gc, "get_referrers")
        exports = exporter["connect"]("collector:4317")
        channel = grpc.insecure_channel("ledger:50051")

        assert application.names() == {"grpc-ledger-50051"}
        for each in (exports, channel):
            each.close()


def test_the_channel_that_telemetry_was_exported_through_before_is_no_component() -> None:
    """It is known by who holds it: bare, or with others in front of it that intercept its calls."""

    class Exporter:
        def __init__(self, channel: Any) -> None:
            self.channel = channel

    class Interceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc] # It is untyped.
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, request)

    Exporter.__module__ = "opentelemetry.exporter.otlp.proto.grpc.exporter"
    bare = Exporter(grpc.insecure_channel("collector:4317"))
    intercepted = Exporter(grpc.intercept_channel(grpc.insecure_channel("collector:4318"), Interceptor()))
    channel = grpc.insecure_channel("ledger:50051")
    with watching("grpc") as application:
        assert application.names() == {"grpc-ledger-50051"}
        for each in (bare.channel, intercepted.channel, channel):
            each.close()


# Names that settings lead to.

SAID: list[tuple[dict[str, Any], str]] = [
    ({"dsn": "postgresql://orders:s3cret@db:5433/shop"}, "postgresql-db-5433-shop"),
    ({"dsn": "postgresql://s3cret:s3cret@db/"}, "postgresql-db-5432"),
    ({"dsn": "postgres:///shop?host=db&port=5433"}, "postgresql-db-5433-shop"),
    ({"dsn": "postgresql://db/shop", "database": "other"}, "postgresql-db-5432-other"),
    ({"host": "db", "user": "s3cret", "password": "s3cret"}, "postgresql-db-5432"),
    ({"host": ["a", "b"], "port": 5432, "database": "shop"}, "postgresql-a-b-5432-shop"),
    ({"dsn": "postgresql://orders:s3cret/@db/shop"}, "postgresql-default"),
    ({"dsn": "postgresql://orders:1/s3cret@db/shop"}, "postgresql-default"),
    ({"dsn": "postgresql://orders:s3cret?@db/shop"}, "postgresql-default"),
]


@pytest.mark.parametrize(("settings", "name"), SAID)
async def test_the_name_of_a_pool_of_asyncpg(settings: dict[str, Any], name: str) -> None:
    """As its settings say; nothing is connected."""
    with watching("asyncpg") as application:
        pool = asyncpg.create_pool(min_size=0, **settings)
        await pool._async__init__()  # noqa: SLF001 - it is what awaiting a pool does.
        (found,) = application.names()
        await pool.close()

    assert found.startswith(name)
    assert "s3cret" not in found


@pytest.mark.parametrize(
    ("conninfo", "settings", "name"),
    [
        ("postgresql://orders:s3cret@db:5433/shop", {}, "postgresql-db-5433-shop"),
        ("host=db user=s3cret password=s3cret", {}, "postgresql-db-5432"),
        ("hostaddr=10.0.0.1 dbname=shop", {}, "postgresql-10.0.0.1-5432-shop"),
        ("service=orders", {}, "postgresql-orders"),
        ("dbname=shop", {"service": "orders"}, "postgresql-orders-shop"),
        ("host=a,b port=5432,5433 dbname=shop", {}, "postgresql-a-b-5432-5433-shop"),
        ("", {"host": "db", "dbname": "shop", "autocommit": True}, "postgresql-db-5432-shop"),
        ("", {"dbname": "host=db password=s3cret"}, "postgresql-default"),
        ("host=db password=a s3cret", {}, "postgresql-default"),
    ],
)
def test_the_name_of_a_pool_of_psycopg(
    conninfo: str, settings: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As its settings say; what cannot be read of them is told to nobody."""
    with watching("psycopg") as application:
        pool = psycopg_pool.ConnectionPool(conninfo, kwargs=settings, min_size=0, max_size=1, open=True)
        (found,) = application.names()
        pool.close()

    assert found.startswith(name)
    assert "s3cret" not in found
    assert "s3cret" not in "".join(line for logger, _, line in caplog.record_tuples if logger == "otel_health")


def test_several_brokers_are_one_component(threads: Callable[[], int]) -> None:
    """In whatever order they are listed."""
    with watching("confluent-kafka") as application:
        made = [
            confluent_kafka.Producer({**clients.librdkafka(1), "bootstrap.servers": brokers})
            for brokers in ("b1:9092,b2:9092", "b2:9092, B1:9092")
        ]
        (name,) = application.names()
        assert name.startswith("kafka-b1-9092-b2-9092-")
        assert threads() == 0
        made.clear()


# Hooks.


def test_a_class_that_stands_before_another_is_as_good_as_that() -> None:
    """What it makes counts as the original's; it can be subclassed, with any metaclass, and is gone in the end."""
    original = confluent_kafka.Producer
    settings = clients.librdkafka(1)
    with watching("confluent-kafka"):
        assert confluent_kafka.Producer is not original
        assert isinstance(confluent_kafka.Producer(settings), original)
        assert type(confluent_kafka.Producer) is type(original)

        class Singleton(type):
            pass

        class Orders(confluent_kafka.Producer, metaclass=Singleton):
            pass

        assert isinstance(Orders(settings), original)

    assert confluent_kafka.Producer is original
    assert needs_stand_in(original)


def test_one_that_was_put_back_idle_is_seen_through() -> None:
    """Whoever took the place of ours puts ours back, when it has nothing to tell any more."""
    module = ModuleType("library")
    module.Client = confluent_kafka.TopicPartition  # type: ignore[attr-defined]
    seen: list[object] = []
    undo = stand_before(module, "Client", lambda client, *_: seen.append(client))
    ours = vars(module)["Client"]
    undo()
    module.Client = ours  # type: ignore[attr-defined]
    assert needs_stand_in(ours)
    ours("orders")
    assert seen == []

    again = stand_before(module, "Client", lambda client, *_: seen.append(client))
    made = vars(module)["Client"]("orders")
    again()

    assert seen == [made]
    assert vars(module)["Client"] is confluent_kafka.TopicPartition


def test_a_wrapper_that_came_later_keeps_ours_which_is_idle() -> None:
    """It cannot be taken out from under another one, so it does nothing."""

    class Client:
        pass

    seen: list[object] = []
    undo = on_made(Client, lambda client, *_: seen.append(client))
    ours = Client.__init__

    def theirs(self: object) -> None:
        ours(self)

    Client.__init__ = theirs  # type: ignore[method-assign]
    Client()
    assert len(seen) == 1
    undo()
    Client()

    assert len(seen) == 1
    assert Client.__init__ is theirs


def test_a_constructor_that_was_inherited_is_again() -> None:
    """Nothing is left in the class that was not there."""

    class Client:
        known: ClassVar[list[object]] = []

    before = set(vars(Client))
    undo = on_made(Client, lambda client, *_: Client.known.append(client))
    assert Client() in Client.known
    undo()

    assert set(vars(Client)) == before


def test_a_module_that_is_no_longer_waited_for() -> None:
    """Its import is nobody's business any more."""
    undo = when_imported("otel_health_never_imported", lambda _: pytest.fail("nobody waits"))

    undo()
    undo()
