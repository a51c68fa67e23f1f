"""Kafka, through the client of confluent-kafka or aiokafka that the application holds."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, completes, is_async, require_count, require_seconds
from otel_health.compose import threshold

Partition = tuple[str, int]
Offsets = Mapping[Partition, tuple[int, int]]
"""Where the consumer is, and where its partition ends."""

_END: Final = -1
_LIBRDKAFKA: Final = ("position", "committed", "assignment", "offsets_for_times")
_AIOKAFKA: Final = ("position", "assignment", "end_offsets")


class Listing(Protocol):
    """What is used of a `Producer`, `Consumer` or `AdminClient` of confluent-kafka."""

    def list_topics(self, *, timeout: float) -> Any: ...


class Producing(Protocol):
    """What is used of an `AIOKafkaProducer`."""

    @property
    def client(self) -> Any: ...


class Topics(Protocol):
    """What is used of an `AIOKafkaConsumer`."""

    async def topics(self) -> Collection[str]: ...


class Consumer(Protocol):
    """What is used of a `Consumer` of confluent-kafka, or of an `AIOKafkaConsumer`."""

    def assignment(self) -> Iterable[Any]: ...


def answers(client: Listing | Producing | Topics, *, wait: float = 1.0) -> CheckFunc:
    """Return a check that a broker answers this client with the cluster's metadata.

    It proves neither that a topic can be written to, nor that a consumer gets on (`progress`). Cost: the metadata of
    every topic from one broker: some 100 bytes for each partition. Every 30 s is fine.

    Args:
        client: A producer, consumer or admin client of confluent-kafka; a started producer or consumer of aiokafka.
        wait: Seconds for which confluent-kafka waits for a broker. Nothing can interrupt it, so let it be less than
            the timeout of the check; aiokafka goes by that alone.

    Raises:
        TypeError: It is no such client.
        ValueError: `wait` is no number of seconds.

    Example:
        >>> checker.add("kafka", kafka.answers(producer), interval=30.0)
    """
    require_seconds("kafka.answers", "wait", wait)
    if hasattr(client, "list_topics") and not is_async(client.list_topics):
        listing = client.list_topics
        return completes(lambda: listing(timeout=wait))
    if hasattr(client, "topics") and is_async(client.topics):
        return completes(client.topics)
    if hasattr(getattr(client, "client", None), "fetch_all_metadata"):
        return completes(client.client.fetch_all_metadata)  # type: ignore[union-attr]
    raise TypeError(
        f"kafka.answers: {type(client).__name__} is no client of confluent-kafka or aiokafka; pass the producer or "
        "consumer that the application holds"
    )


def lag(consumer: Consumer, *, warn: float, fail: float | None = None, wait: float = 1.0) -> CheckFunc:
    """Return a check that this consumer is not too far behind; observes `lag`.

    `lag` is how many messages of the partitions that are assigned to it, all together, it has not been handed yet.
    Without any partition it is 0. Of a partition from which it was handed nothing, and for which nothing is committed,
    what comes after the first run counts. Where messages are written in transactions, the marker at the end of one
    counts too. Cost: a question for each broker, which may wait behind a fetch for half a second
    (`fetch.wait.max.ms`). Every 30 s is fine.

    Args:
        consumer: A consumer of confluent-kafka, or a started one of aiokafka.
        warn: How many messages it warns from.
        fail: How many messages it fails from; never, if you do not say.
        wait: Seconds for which confluent-kafka waits for a broker; see `answers`.

    Raises:
        TypeError: It is no such consumer.
        ValueError: The limits make no sense, or `wait` is no number of seconds.

    Example:
        >>> checker.add("orders-lag", kafka.lag(consumer, warn=10_000, fail=1_000_000), critical=False)
    """
    return threshold(_asking("kafka.lag", consumer, wait, _total), warn=warn, fail=fail, observation="lag")


def progress(consumer: Consumer, *, stalled_after: float = 60.0, backlog: int = 1, wait: float = 1.0) -> CheckFunc:
    """Return a check that this consumer gets on wherever messages wait; observes `lag` and `stalled`.

    It fails once a partition has had a backlog, and the consumer has been handed nothing of it, for `stalled_after`
    seconds: a poison message, a worker that hangs, a paused partition. `stalled` is how many such partitions there are.
    A consumer that is slow, but gets on, passes (`lag`). Cost: as `lag`. Every 30 s is fine.

    Args:
        consumer: A consumer of confluent-kafka, or a started one of aiokafka.
        stalled_after: Seconds; longer than the longest time that a message may take, and than the interval.
        backlog: From how many messages on they are held to wait. Where they are written in transactions, say 2 or
            more: the marker at the end of one counts, and is never handed to anybody.
        wait: Seconds for which confluent-kafka waits for a broker; see `answers`.

    Raises:
        TypeError: It is no such consumer.
        ValueError: `stalled_after` or `wait` is no number of seconds, or `backlog` no count.

    Example:
        >>> checker.add("orders-consumer", kafka.progress(consumer, stalled_after=120.0))
    """
    require_seconds("kafka.progress", "stalled_after", stalled_after)
    require_count("kafka.progress", "backlog", backlog)
    seen: dict[Partition, tuple[int, float]] = {}

    def conclude(offsets: Offsets) -> dict[str, float]:
        now = time.monotonic()
        for gone in seen.keys() - offsets.keys():
            del seen[gone]
        for partition, (position, end) in offsets.items():
            if end - position < backlog or partition not in seen or seen[partition][0] != position:
                seen[partition] = position, now
        stalled = sum(now - since >= stalled_after for _, since in seen.values())
        found = {"lag": _total(offsets), "stalled": stalled}
        if stalled:
            raise Failed(f"no progress for {stalled_after:g} s in {stalled} of {len(offsets)} partitions", **found)
        return found

    return _asking("kafka.progress", consumer, wait, conclude)


def _total(offsets: Offsets) -> float:
    return sum(max(end - position, 0) for position, end in offsets.values())


def _asking(subject: str, consumer: Any, wait: float, conclude: Callable[[Offsets], Any]) -> Callable[[], Any]:
    """Return a function, sync or async as the consumer is, that concludes from its offsets."""
    require_seconds(subject, "wait", wait)
    first_ends: dict[Partition, int] = {}

    def ask() -> Any:
        return conclude(_offsets(consumer, wait, first_ends))

    async def ask_async() -> Any:
        return conclude(await _offsets_async(consumer))

    if all(hasattr(consumer, name) for name in _LIBRDKAFKA) and not is_async(consumer.position):
        return ask
    if all(hasattr(consumer, name) for name in _AIOKAFKA) and is_async(consumer.position):
        return ask_async
    raise TypeError(
        f"{subject}: {type(consumer).__name__} is no consumer of confluent-kafka or aiokafka; pass the one that the "
        "application holds"
    )


def _offsets(consumer: Any, wait: float, first_ends: dict[Partition, int]) -> Offsets:
    positions = consumer.position(consumer.assignment())
    if not positions:
        return {}
    # A negative offset is a word, such as "none yet"; as a time it asks for the end.
    unknown = [each for each in positions if each.offset < 0]
    committed = {_name(each): each.offset for each in consumer.committed(unknown, wait)} if unknown else {}
    latest = [type(each)(each.topic, each.partition, _END) for each in positions]
    ends = {_name(each): each.offset for each in consumer.offsets_for_times(latest, wait)}
    if any(end < 0 for end in ends.values()):
        raise Failed("nobody knows where one of the partitions ends")
    offsets = {}
    for each in positions:
        name = _name(each)
        position = max(each.offset, committed.get(name, -1))
        offsets[name] = position if position >= 0 else first_ends.setdefault(name, ends[name]), ends[name]
    return offsets


async def _offsets_async(consumer: Any) -> Offsets:
    assigned = consumer.assignment()
    ends = await consumer.end_offsets(assigned) if assigned else {}
    return {_name(each): (await consumer.position(each), end) for each, end in ends.items()}


def _name(partition: Any) -> Partition:
    return partition.topic, partition.partition
