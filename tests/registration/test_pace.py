"""The pace: heartbeats in time, retries that spread, and a registration that is fought for while it lives."""

from statistics import mean

from otel_health.registration.pace import PATIENCE, RETRY_MOST, SHORT_CALLS, Pace

NOW = [0.0]


def pace(ttl: float = 15.0) -> Pace:
    """A pace whose clock stands until it is moved."""
    NOW[0] = 1000.0
    return Pace(ttl, timeout=2.0, clock=lambda: NOW[0])


def test_heartbeats_come_at_a_third_of_the_ttl_and_never_later() -> None:
    """A little earlier each time, so that instances that were started together drift apart."""
    dues = []
    for _ in range(200):
        subject = pace()
        subject.succeeded(NOW[0])
        dues.append(subject.due - NOW[0])

    assert 4.5 <= min(dues) < 4.6
    assert 4.9 < max(dues) <= 5.0


def test_what_was_said_counts_from_when_it_was_said() -> None:
    """The answer took its time, and the registry's clock has run meanwhile."""
    subject = pace()
    begun = NOW[0]
    NOW[0] += 1.5

    subject.succeeded(begun)

    assert subject.believed_until == begun + 15.0


def test_retries_spread_over_ever_more_time_up_to_a_bound() -> None:
    """However many lose the registry at once, they come back one by one (full jitter)."""
    waits = []
    for _ in range(400):
        subject = pace()
        waits.append([subject.failed(NOW[0]) for _ in range(12)])

    assert max(each[0] for each in waits) <= 0.25
    last = [each[-1] for each in waits]
    assert max(last) <= RETRY_MOST
    assert abs(mean(last) - RETRY_MOST / 2) < 0.5
    assert min(last) < 0.2


def test_a_short_ttl_makes_for_short_waits() -> None:
    """Half of it at most: who is forgotten soon is soon back."""
    subject = pace(ttl=2.0)

    assert max(subject.failed(NOW[0]) for _ in range(400)) <= 1.0


def test_a_registration_that_runs_out_is_fought_for() -> None:
    """While it lives, at least a dozen more calls fit into what is left, however many have failed."""
    subject = pace()
    subject.succeeded(NOW[0])
    ends, calls = NOW[0] + 15.0, 0
    NOW[0] += 5.0
    while NOW[0] < ends:
        begun = NOW[0]
        NOW[0] += subject.patience
        NOW[0] += subject.failed(begun)
        calls += 1

    assert calls >= 10


def test_a_call_is_given_what_calls_took_lately_and_all_the_time_in_the_end() -> None:
    """A lost packet costs half a second, and a registry that is slow is waited for."""
    subject = pace()
    assert subject.patience == PATIENCE
    NOW[0] += 0.3
    subject.succeeded(NOW[0] - 0.3)
    assert round(subject.patience, 6) == 1.2
    NOW[0] += 1.0
    subject.succeeded(NOW[0] - 1.0)
    assert subject.patience == 2.0
    subject = pace()
    for _ in range(SHORT_CALLS):
        assert subject.patience == PATIENCE
        subject.failed(NOW[0])
    assert subject.patience == 2.0
