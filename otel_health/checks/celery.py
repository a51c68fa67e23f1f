"""Celery, through the app that the service sends its tasks with: the broker, the workers, the queues."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, completes, require_count, require_seconds
from otel_health.compose import threshold

_NOT_FOUND: Final = "404"


class App(Protocol):
    """What is used of a `celery.Celery`."""

    @property
    def control(self) -> Any: ...
    def connection_for_write(self, *, connect_timeout: float) -> AbstractContextManager[Any]: ...


def answers(app: App, *, wait: float = 1.0) -> CheckFunc:
    """Return a check that Celery's broker takes a new connection.

    It proves that tasks could be sent, not that anybody works on them (`workers`), and nothing of a result backend. It
    opens a connection of its own, since Celery's would retry until the deadline hides why. One that Redis refused holds
    a descriptor until Python collects garbage, as all of kombu's do. Cost: a connection. Every 10 s is fine.

    Args:
        app: The app.
        wait: Seconds for which an AMQP broker may take to let us in. Nothing can interrupt that, so let it be less
            than the timeout of the check. For Redis, set `socket_timeout` in `broker_transport_options`.

    Raises:
        TypeError: It is no such app.
        ValueError: `wait` is no number of seconds.

    Example:
        >>> checker.add("celery-broker", celery.answers(app))
    """
    _require_app("celery.answers", app, wait)

    def check() -> None:
        with _connected(app, wait):
            pass

    return completes(check)


def workers(app: App, *, count: int = 1, wait: float = 1.0) -> CheckFunc:
    """Return a check that workers answer a ping; observes `workers`, up to `count`.

    It asks the broker first, so a broker that is gone is told as such. A worker answers from its main process, so this
    does not prove that a pool gets on (`backlog`); one with the pool `solo` does not answer while it works. It ends as
    soon as `count` have answered, and after `wait` where they do not. Cost: a connection and a broadcast, which every
    worker answers. Every 30 s is fine.

    Args:
        app: The app.
        count: How many workers must answer.
        wait: Seconds for which answers are waited for (on Redis at least one), and for which an AMQP broker may take
            to let us in. Let the timeout of the check be more than twice that.

    Raises:
        TypeError: It is no such app.
        ValueError: `count` is no count, or `wait` no number of seconds.

    Example:
        >>> checker.add("celery-workers", celery.workers(app, count=2), interval=30.0, critical=False)
    """
    _require_app("celery.workers", app, wait)
    require_count("celery.workers", "count", count)

    def check() -> dict[str, float]:
        with _connected(app, wait) as connection:
            answered = len(app.control.inspect(timeout=wait, limit=count, connection=connection).ping() or ())
        if answered < count:
            raise Failed(f"{answered} of the {count} workers needed answered within {wait:g} s", workers=answered)
        return {"workers": answered}

    return check


def backlog(app: App, *, warn: float, fail: float | None = None, queue: str = "celery", wait: float = 1.0) -> CheckFunc:
    """Return a check that not too many tasks wait in a queue; observes `tasks`.

    Counted is what no worker has fetched yet; a worker fetches ahead (`worker_prefetch_multiplier`). On an AMQP broker
    a queue that does not exist fails; on Redis it is empty. Cost: a connection and a passive declaration. Every 30 s is
    fine.

    Args:
        app: The app.
        warn: How many tasks it warns from.
        fail: How many tasks it fails from; never, if you do not say.
        queue: The name of the queue; `celery` is Celery's default.
        wait: Seconds for which an AMQP broker may take to let us in; see `answers`.

    Raises:
        TypeError: It is no such app.
        ValueError: The limits make no sense, or `wait` is no number of seconds.

    Example:
        >>> checker.add("celery-queue", celery.backlog(app, warn=1_000, fail=100_000), critical=False)
    """
    _require_app("celery.backlog", app, wait)

    def measure() -> float:
        with _connected(app, wait) as connection:
            try:
                return float(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
            except connection.channel_errors as error:
                # Redis keeps no empty lists.
                if connection.transport.driver_type != "redis" or str(error.reply_code) != _NOT_FOUND:
                    raise
                return 0.0

    return threshold(measure, warn=warn, fail=fail, observation="tasks")


@contextmanager
def _connected(app: App, wait: float) -> Iterator[Any]:
    with app.connection_for_write(connect_timeout=wait) as connection:
        # Each of the brokers once, where there are several, without a pause.
        connection.ensure_connection(max_retries=len(connection.alt), interval_start=0, interval_step=0)
        yield connection


def _require_app(subject: str, app: object, wait: float) -> None:
    if not hasattr(app, "connection_for_write") or not hasattr(app, "control"):
        raise TypeError(f"{subject}: {type(app).__name__} is no app of Celery; pass the one that tasks are sent with")
    require_seconds(subject, "wait", wait)
