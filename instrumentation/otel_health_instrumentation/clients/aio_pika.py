"""RabbitMQ: the robust connections of aio-pika."""

from typing import Any, Final

from otel_health.checks import rabbitmq
from otel_health_instrumentation.clients.technology import Server, Technology, server


def _server(connection: Any) -> Server:
    url = connection.url
    return server("rabbitmq", url.host, url.port or (5671 if url.scheme == "amqps" else 5672), url.path.lstrip("/"))


AIO_PIKA: Final = Technology(
    name="aio-pika",
    classes={"aio_pika.robust_connection": ("RobustConnection",)},
    server=_server,
    check=rabbitmq.answers,
    usable=lambda connection: not (connection.is_closed or connection.close_called),
    loop=lambda connection: connection.loop,
)
