"""Kafka: the producers and consumers of aiokafka, confluent-kafka and kafka-python."""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from otel_health import CheckFunc
from otel_health.check import CheckReturn
from otel_health.checks import kafka
from otel_health_instrumentation.clients.technology import Server, Technology, server


def _server(brokers: Iterable[str]) -> Server:
    addresses = sorted({each.strip().lower() for each in brokers})
    host, _, port = addresses[0].rpartition(":")
    return server("kafka", host, port) if len(addresses) == 1 and host else server("kafka", ",".join(addresses))


# aiokafka.


def _connected(client: Any) -> Any:
    """What a producer or consumer has its connections in."""
    return getattr(client, "_client", None) or client.client


def _aiokafka_server(client: Any) -> Server:
    return _server(f"{host}:{port}" for host, port, *_ in _connected(client).hosts)


AIOKAFKA: Final = Technology(
    name="aiokafka",
    classes={"aiokafka.producer.producer": ("AIOKafkaProducer",), "aiokafka.consumer.consumer": ("AIOKafkaConsumer",)},
    server=_aiokafka_server,
    check=kafka.answers,
    usable=lambda client: client._closed is False and _connected(client)._sync_task is not None,  # noqa: SLF001
    loop=lambda client: client._loop,  # noqa: SLF001
)


# confluent-kafka. Its producers and consumers are of C, and cannot be asked which brokers they were told of.

_BROKERS: Final = "_otel_health_brokers"
_CLOSED: Final = "_otel_health_closed"


def _note(client: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    settings = args[0] if args else kwargs.get("conf", kwargs)
    setattr(client, _BROKERS, str(settings.get("bootstrap.servers") or settings.get("metadata.broker.list") or ""))


def _confluent_server(client: Any) -> Server | None:
    brokers = getattr(client, _BROKERS, "")
    return _server(brokers.split(",")) if brokers else None


def _confluent_check(client: Any) -> CheckFunc:
    answers = kafka.answers(client)

    def check() -> CheckReturn | Awaitable[CheckReturn]:
        try:
            return answers()
        except RuntimeError:
            # So it is told that the client was closed; nothing else would tell.
            setattr(client, _CLOSED, True)
            raise

    return check


CONFLUENT_KAFKA: Final = Technology(
    name="confluent-kafka",
    classes={
        "confluent_kafka": ("SerializingProducer", "DeserializingConsumer"),
        "confluent_kafka.admin": ("AdminClient",),
        # What OpenTelemetry puts in place of those of C.
        "opentelemetry.instrumentation.confluent_kafka": ("AutoInstrumentedProducer", "AutoInstrumentedConsumer"),
    },
    immutable={"confluent_kafka": ("Producer", "Consumer")},
    note=_note,
    server=_confluent_server,
    check=_confluent_check,
    usable=lambda client: not getattr(client, _CLOSED, False),
)


# kafka-python. Its consumers may be used in one thread alone, which is the application's.

_WAITS: Final = dict.fromkeys(("bootstrap_timeout_ms", "request_timeout_ms"), 1000)
_PORT: Final = 9092


def _kafka_python_server(client: Any) -> Server:
    said = client.config["bootstrap_servers"]
    brokers = said.split(",") if isinstance(said, str) else said
    return _server(each if ":" in each else f"{each}:{_PORT}" for each in brokers)


def _connects(client: Any) -> CheckFunc:
    """Return a check that asks for the brokers by an admin client of its own, with this client's settings."""
    kind = import_module("kafka.admin.client").KafkaAdminClient
    settings = {name: client.config[name] for name in kind.DEFAULT_CONFIG if name in client.config}

    def check() -> None:
        another = kind.__new__(kind)
        another._closed = False  # noqa: SLF001 - or one that finds no broker closes neither its sockets nor its thread.
        try:
            another.__init__(**{**settings, **_WAITS})
            another.describe_cluster()
        finally:
            another.close()

    return check


KAFKA_PYTHON: Final = Technology(
    name="kafka-python",
    classes={
        "kafka.producer.kafka": ("KafkaProducer",),
        "kafka.consumer.group": ("KafkaConsumer",),
        "kafka.admin.client": ("KafkaAdminClient",),
    },
    server=_kafka_python_server,
    check=_connects,
    usable=lambda client: client._closed is False,  # noqa: SLF001
)
