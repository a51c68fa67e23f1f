"""Checks make no traffic in the user's traces: the one place that knows OpenTelemetry's keys for it."""

import random
from contextvars import Context

from opentelemetry import context as otel_context
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context


def quiet_context() -> Context:
    """Return a fresh context in which nothing is traced.

    Instrumentations that know the suppression keys stay silent. The others (kafka clients, pymemcache) find a parent
    with a valid context and flag 0, below which parent-based samplers drop.
    """
    parent = SpanContext(
        trace_id=random.getrandbits(127) + 1,
        span_id=random.getrandbits(63) + 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
    )
    quiet = set_span_in_context(NonRecordingSpan(parent), otel_context.Context())
    for key in (_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY, "suppress_instrumentation"):
        quiet = otel_context.set_value(key, True, quiet)
    fresh = Context()
    fresh.run(otel_context.attach, quiet)
    return fresh
