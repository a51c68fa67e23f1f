"""Kafka beyond what every server is put to: consumers that are behind, and consumers that do not get on."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiokafka
import confluent_kafka
import pytest

from otel_health import Checker
from otel_health.checks import kafka
from tests.checks.clients import aiokafka_consumer, aiokafka_producer, kafka_consumer, kafka_producer, librdkafka
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, own_kafka

Take = Callable[[Any], Awaitable[object]]


@pytest.fixture
def server(servers: Started) -> OwnServer:
    """A broker that the tests share."""
    return servers("kafka")


@pytest.fixture
def topic() -> str:
    """A topic that nobody else uses."""
    return uuid.uuid4().hex


def produce(server: OwnServer, topic: str, *partitions: int) -> None:
    """Write a message to each of these partitions."""
    producer = confluent_kafka.Producer(librdkafka(server.port))
    for partition in partitions:
        producer.produce(topic, b"order", partition=partition)
    assert producer.flush(10) == 0
    producer.close()


async def commit(server: OwnServer, topic: str, offsets: dict[int, int]) -> None:
    """Commit as another consumer of the group `topic`: confluent-kafka's own hangs at times, where nothing ends it."""
    async with aiokafka_consumer(server.port, group=topic) as consumer:
        at = {aiokafka.TopicPartition(topic, partition): offset for partition, offset in offsets.items()}
        consumer.assign([*at])
        await consumer.commit(at)


async def take_confluent(consumer: confluent_kafka.Consumer) -> None:
    """Take one message."""
    message = await asyncio.to_thread(consumer.poll, 10.0)
    assert message is not None
    assert message.error() is None


async def take_aiokafka(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Take one message."""
    await consumer.getone()


@pytest.mark.parametrize("make", [kafka.answers, lambda what: kafka.lag(what, warn=1), kafka.progress])
def test_what_is_no_client_is_refused_without_being_shown(make: Any) -> None:
    """An address is refused at once, and not repeated."""
    with pytest.raises(TypeError, match=r"str is no (client|consumer) of confluent-kafka or aiokafka") as caught:
        make("broker.internal:9092")

    assert "internal" not in str(caught.value)


async def test_arguments_that_make_no_sense_are_refused(server: OwnServer) -> None:
    """Each is named."""
    async with kafka_consumer(server.port) as consumer:
        for wrong in ({"wait": 0}, {"stalled_after": -1}, {"backlog": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                kafka.progress(consumer, **wrong)
        with pytest.raises(ValueError, match="swap them"):
            kafka.lag(consumer, warn=2, fail=1)
    async with kafka_producer(server.port) as producer:
        with pytest.raises(TypeError, match="Producer is no consumer"):
            kafka.lag(producer, warn=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("opened", "told"), [(kafka_producer, "KafkaException"), (aiokafka_producer, "timeout")], ids=["confluent", "aio"]
)
async def test_a_broker_that_is_killed_under_way_is_told_in_time(opened: Any, told: str) -> None:
    """Its process ends while it is asked."""
    with own_kafka() as own:
        async with opened(own.port) as client:
            checker = Checker(timeout=1.0)
            checker.add("it", kafka.answers(client, wait=0.5))
            own.pause()
            asked = asyncio.create_task(checker.run())
            await asyncio.sleep(0.05)
            own.end()  # type: ignore[attr-defined]
            result = (await asked).components["it"].result

    assert result is not None
    assert (result.status, result.refined_error_type in {told, "KafkaError"}) == ("fail", True)


async def test_the_lag_of_confluent_kafka_is_what_was_not_handed_over(server: OwnServer, topic: str) -> None:
    """Two of three wait; taking them brings it down to nothing."""
    produce(server, topic, 0, 0, 0)
    async with kafka_consumer(server.port, topic) as consumer:
        consumer.subscribe([topic])
        assert (await result_of(kafka.lag(consumer, warn=1))).observations == {"lag": 0.0}
        await take_confluent(consumer)

        await the_lag_falls(consumer, take_confluent)


async def test_the_lag_of_aiokafka_is_what_was_not_handed_over(server: OwnServer, topic: str) -> None:
    """As above, over two partitions."""
    produce(server, topic, 0, 0, 1)
    async with aiokafka_consumer(server.port, topic, group=topic) as consumer:
        await take_aiokafka(consumer)

        await the_lag_falls(consumer, take_aiokafka)


async def the_lag_falls(consumer: Any, take: Take) -> None:
    """Two messages are left of three: at the limits, then below them."""
    assert (await becomes("fail", kafka.lag(consumer, warn=1, fail=2))).observations["lag"] == 2.0
    assert (await becomes("warn", kafka.lag(consumer, warn=2, fail=3))).observations["lag"] == 2.0
    await take(consumer)
    await take(consumer)
    assert (await becomes("pass", kafka.lag(consumer, warn=1))).observations == {"lag": 0.0}


async def test_what_is_committed_counts_where_nothing_was_handed_over_yet(server: OwnServer, topic: str) -> None:
    """Another consumer of the group had taken one of three: two are left for its successor, before it begins."""
    produce(server, topic, 0, 0, 0)
    await commit(server, topic, {0: 1})
    async with kafka_consumer(server.port, topic) as consumer:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0)])

        assert (await result_of(kafka.lag(consumer, warn=2))).observations == {"lag": 2.0}


async def test_where_nothing_is_known_what_comes_later_counts(server: OwnServer, topic: str) -> None:
    """Whether the consumer begins at the beginning or at the end cannot be seen from outside."""
    produce(server, topic, 0)
    async with kafka_consumer(server.port, topic) as consumer:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0)])
        check = kafka.lag(consumer, warn=1)
        assert (await result_of(check)).observations == {"lag": 0.0}
        produce(server, topic, 0, 0)

        assert (await result_of(check)).observations == {"lag": 2.0}


async def test_a_partition_that_is_not_there_has_no_end(server: OwnServer, topic: str) -> None:
    """What cannot be measured fails."""
    produce(server, topic, 0)
    async with kafka_consumer(server.port, topic) as consumer:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0), confluent_kafka.TopicPartition(topic, 99)])

        result = await result_of(kafka.lag(consumer, warn=1))

    assert (result.status, result.message) == ("fail", "nobody knows where one of the partitions ends")


async def test_a_consumer_of_confluent_kafka_that_does_not_get_on_fails(server: OwnServer, topic: str) -> None:
    """See below."""
    produce(server, topic, 0, 0, 0, 0)
    async with kafka_consumer(server.port, topic) as consumer:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0)])
        await take_confluent(consumer)

        await it_stalls_and_gets_on(consumer, take_confluent)


async def test_a_consumer_of_aiokafka_that_does_not_get_on_fails(server: OwnServer, topic: str) -> None:
    """See below."""
    produce(server, topic, 0, 0, 0, 0)
    async with aiokafka_consumer(server.port, group=topic) as consumer:
        consumer.assign([aiokafka.TopicPartition(topic, 0)])
        await take_aiokafka(consumer)

        await it_stalls_and_gets_on(consumer, take_aiokafka)


async def it_stalls_and_gets_on(consumer: Any, take: Take) -> None:
    """Three wait and nobody takes them: it fails. Each one taken clears it for a while; with none it passes."""
    check, patient = kafka.progress(consumer, stalled_after=0.3), kafka.progress(consumer, stalled_after=600.0)
    tolerant = kafka.progress(consumer, stalled_after=0.001, backlog=4)
    assert (await result_of(check)).observations == {"lag": 3.0, "stalled": 0.0}
    stalled = await becomes("fail", check)
    assert stalled.observations == {"lag": 3.0, "stalled": 1.0}
    assert "no progress for 0.3 s in 1 of " in str(stalled.message)
    assert [(await result_of(each)).status for each in (patient, tolerant, tolerant)] == ["pass", "pass", "pass"]

    await take(consumer)
    assert (await result_of(check)).observations == {"lag": 2.0, "stalled": 0.0}
    await becomes("fail", check)
    await take(consumer)
    await take(consumer)
    await becomes("pass", check)
    await asyncio.sleep(0.4)
    assert (await result_of(check)).status == "pass"


async def test_a_partition_that_stalls_is_seen_beside_one_that_gets_on(server: OwnServer, topic: str) -> None:
    """One partition is paused, as a poison message would: the other's progress does not hide it; leaving it ends it."""
    produce(server, topic, 0, 1, 1, 1)
    await commit(server, topic, {0: 0, 1: 0})
    first, second = (confluent_kafka.TopicPartition(topic, number, 0) for number in (0, 1))
    async with kafka_consumer(server.port, topic) as consumer:
        consumer.assign([first, second])
        consumer.pause([first])
        check = kafka.progress(consumer, stalled_after=0.3)
        await result_of(check)
        await take_confluent(consumer)
        assert (await becomes("fail", check)).observations["stalled"] >= 1.0
        await take_confluent(consumer)
        assert (await result_of(check)).observations == {"lag": 2.0, "stalled": 1.0}

        consumer.assign([confluent_kafka.TopicPartition(topic, 1, 2)])
        await take_confluent(consumer)
        await eventually(lambda: len(consumer.assignment()) == 1)
        assert (await result_of(check)).observations == {"lag": 0.0, "stalled": 0.0}
