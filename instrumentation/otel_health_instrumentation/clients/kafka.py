"""Kafka: the producers and consumers of aiokafka and confluent-kafka."""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
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
