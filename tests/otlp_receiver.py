"""A receiver of OTLP over HTTP that keeps what it gets. It is the tests' own, not a Collector.

`python -m tests.otlp_receiver PORT` runs one in a process of its own.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver:
    """What it was sent, and how it answers."""

    def __init__(self, port: int = 0) -> None:
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.logs: list[ExportLogsServiceRequest] = []
        self.token: str | None = None
        """Whom it lets in, where it does not let in everybody."""
        self.refuses = False
        self.answers = threading.Event()
        """Cleared, it holds its answers back."""
        self.answers.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.answers.wait()
                self.send_response(receiver.take(self.path, self.headers.get("authorization"), body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                with suppress(OSError):  # An exporter may have given up.
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, authorization: str | None, body: bytes) -> int:
        """Keep what is sent; the status that this is answered with."""
        if self.refuses:
            return 400
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401
        if path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif path == "/v1/traces":
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/logs":
            self.logs.append(ExportLogsServiceRequest.FromString(body))
        else:
            return 404
        return 200


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens."""
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.answers.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()


if __name__ == "__main__":
    Receiver(int(sys.argv[1])).server.serve_forever()
