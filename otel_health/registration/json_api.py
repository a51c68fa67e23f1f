"""JSON over HTTP, as registries speak it: to one of several addresses, with an answer that is bounded."""

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from otel_health.client.requests import Request, ask, require_request
from otel_health.client.streams import Trust
from otel_health.compose import parent
from otel_health.registration.calls import Calls
from otel_health.registration.registry import Refused

ANSWER_BYTES: Final = 4 * 1024 * 1024
"""How much of an answer is read: about 4,000 instances of a service in Consul."""

READ_SECONDS: Final = 5.0
"""How long a request may take that nobody else gives a deadline."""


class Spoken(NamedTuple):
    """What was answered."""

    status: int
    body: Any
    """What the JSON says; None where the answer is none."""


class JsonApi:
    """An API that is asked at the first of its URLs until that fails, and then at the next.

    Once each of them has failed, they are asked again at the next address of their names.

    Args:
        subject: What it is the API of.
        urls: Its addresses: http or https, without a path.
        headers: Sent with each request.
        context: Verifies the certificate instead of the system's authorities, and may hold one of our own.

    Raises:
        ValueError: An address cannot be asked.
    """

    def __init__(
        self, subject: str, urls: Sequence[str], headers: Mapping[str, str], context: ssl.SSLContext | None
    ) -> None:
        self._requests = [require_request(subject, url, headers=headers) for url in urls]
        for request in self._requests:
            if request.url.path != "/":
                raise ValueError(f"{subject}: the URL has a path or a query; give the address alone")
        self._unanswered = 0
        """Calls so far that nobody has answered."""
        self._trust = Trust(subject, context)
        self._calls = Calls()

    async def ask(self, method: str, path: str, body: object = None) -> Spoken:
        """Ask, and return what is answered.

        Raises:
            OSError: Nobody answered.
            Failed: What came back is no HTTP.
            Refused: What came back is longer than it may be.
        """
        request = self._requests[self._unanswered % len(self._requests)]
        encoded = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        request = replace(
            request,
            method=method,
            url=replace(request.url, path=path),
            accept="application/json",
            body=None if method == "GET" else encoded,
        )
        if parent.get(None) is not None:
            return await self._ask(request)
        # Nobody gives this a deadline, or threads for its names.
        outcome = await self._calls.make(partial(self._ask, request), READ_SECONDS)
        if outcome.error is not None:
            raise outcome.error
        spoken: Spoken = outcome.value
        return spoken

    async def _ask(self, request: Request) -> Spoken:
        answered = False
        rounds = self._unanswered // len(self._requests)
        try:
            answer = await ask(request, self._trust, read_body=True, body_bytes=ANSWER_BYTES, skipped=rounds)
            answered = answer.status < 500
        finally:
            if not answered:
                self._unanswered += 1
        if len(answer.body) >= ANSWER_BYTES:
            raise Refused(f"answered more than {ANSWER_BYTES} bytes")
        try:
            return Spoken(answer.status, json.loads(answer.body))
        except ValueError:
            return Spoken(answer.status, None)
