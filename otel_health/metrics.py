"""The instruments: durations and failures as they happen, all else read from memory when somebody collects."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider

from otel_health import names
from otel_health.report import CheckResult, ComponentState, ErrorType, Status

DURATION_BOUNDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds. Few, since most of a scrape's cost is the writing of buckets; 1.0 is kubelet's default timeout."""

DEFAULT_CARDINALITY: Final = 2000
"""Attribute sets that one stream of the SDK holds by default before it folds the rest into an overflow series."""

_log = logging.getLogger(names.SCOPE)


class Sampled(Protocol):
    """What the metrics read of a component beside its state."""

    @property
    def name(self) -> str: ...
    @property
    def last_run(self) -> float | None: ...
    @property
    def last_success(self) -> float | None: ...
    @property
    def abandoned_runs(self) -> int: ...


class Board(Protocol):
    """The state of one Checker, as the metrics read it from any thread."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def is_open(self) -> bool: ...
    def states(self) -> Iterable[tuple[Sampled, ComponentState]]: ...
    def probe_statuses(self) -> dict[str, Status]: ...


class Instruments:
    """One set of instruments for all Checkers of a MeterProvider: a second set would publish nothing, silently."""

    def __init__(self, provider: MeterProvider) -> None:
        self._limit = getattr(provider, "cardinality_limit", DEFAULT_CARDINALITY)
        self._publishes = not type(provider).__module__.startswith("opentelemetry.metrics")
        """Whether there is an SDK behind it; the API's own providers, proxy and no-op, show nothing to anyone."""
        self._warned = False
        self._faulty = False
        self._boards: WeakSet[Board] = WeakSet()
        meter = provider.get_meter(names.SCOPE)
        self._duration = meter.create_histogram(
            names.CHECK_DURATION,
            "s",
            "How long the runs of a check took.",
            explicit_bucket_boundaries_advisory=list(DURATION_BOUNDS),
        )
        self._failures = meter.create_counter(
            names.CHECK_FAILURES, "", "How often a check failed, by the type of its error."
        )
        self._observe(meter)

    def open(self, board: Board) -> None:
        """Publish a Checker's state from now on.

        Raises:
            ValueError: Another open Checker of this provider has a component of the same name.
        """
        self._refuse_shared(board, board.names)
        self._boards.add(board)
        self._warn_of_overflow()

    def close(self, board: Board) -> None:
        """Publish the Checker's state no more."""
        self._boards.discard(board)

    def admit(self, board: Board, name: str) -> None:
        """Have a component added to an open Checker.

        Raises:
            ValueError: Another open Checker of this provider has a component of that name.
        """
        if board in self._boards:
            self._refuse_shared(board, (name,))
            self._warn_of_overflow()

    def record(self, result: CheckResult, attributes: dict[str, str]) -> None:
        """Take in one result. A provider at fault is told of once, and changes nothing else."""
        try:
            if result.duration is not None:
                self._duration.record(result.duration, attributes)
            if result.status is Status.FAIL:
                self._failures.add(1, {**attributes, names.ERROR_TYPE: str(result.refined_error_type)})
        except Exception as error:  # noqa: BLE001 - telemetry never hurts, whatever the provider does.
            if not self._faulty:
                self._faulty = True
                _log.warning("the meter provider fails to record, metrics are lost: %s", type(error).__name__)

    def _refuse_shared(self, board: Board, added: Iterable[str]) -> None:
        for other in list(self._boards) if self._publishes else ():
            shared = set(added).intersection(other.names) if other is not board and other.is_open else None
            if shared:
                raise ValueError(
                    f"two open Checkers of one meter provider have a component {min(shared)!r}, and their metrics "
                    "could not be told apart; rename one, or give one Checker a meter_provider of its own"
                )

    def _warn_of_overflow(self) -> None:
        components = sum(len(board.names) for board in list(self._boards))
        if self._publishes and components * len(Status) > self._limit and not self._warned:
            self._warned = True
            _log.warning(
                "%d components need %d attribute sets of %s, more than the %d that one stream of the SDK holds by "
                "default; raise the metric reader's cardinality_limits, or the rest is folded into an overflow series",
                components,
                components * len(Status),
                names.CHECK_STATUS,
                self._limit,
            )

    def _observe(self, meter: Meter) -> None:
        gauge, up_down = meter.create_observable_gauge, meter.create_observable_up_down_counter
        gauge(names.CHECK_UP, [self._read(_up)], "", "1 while the component is up, 0 while it fails or is stale.")
        up_down(names.CHECK_STATUS, [self._read(_status)], "", "1 for the status that the component has, else 0.")
        gauge(names.CHECK_LAST_RUN, [self._read(_last_run)], "s", "When a run last ended, in Unix time.")
        gauge(names.CHECK_LAST_SUCCESS, [self._read(_last_success)], "s", "When a run last passed, in Unix time.")
        gauge(names.CHECK_OBSERVATION, [self._read(_observation)], "", "What the check measured in its last run.")
        gauge(
            names.CHECK_ABANDONED, [self._read(_abandoned)], "", "Runs still alive although their deadline has passed."
        )
        gauge(names.PROBE_UP, [self._read(_probe_up)], "", "1 while the probe passes or warns, 0 while it fails.")
        up_down(names.PROBE_STATUS, [self._read(_probe_status)], "", "1 for the status that the probe has, else 0.")

    def _read(self, sample: "Callable[[list[Board]], Iterator[Observation]]") -> "_Callback":
        return functools.partial(_collected, self._boards, sample)


_Callback = Callable[[CallbackOptions], Iterable[Observation]]


def instruments_of(provider: MeterProvider | None) -> Instruments:
    """Return the one set of instruments of this provider, or of the global one."""
    current = get_meter_provider()
    chosen = current if provider is None else provider
    known = _instruments.get(chosen)
    if known is None and chosen is current:
        # The global provider may have been a proxy when its instruments were made; they have followed it since.
        known = _global.get("instruments")
    if known is None:
        known = _instruments[chosen] = Instruments(chosen)
        if chosen is current:
            _global["instruments"] = known
    return known


_instruments: "WeakKeyDictionary[MeterProvider, Instruments]" = WeakKeyDictionary()
_global: dict[str, Instruments] = {}


def _collected(
    boards: "WeakSet[Board]", sample: "Callable[[list[Board]], Iterator[Observation]]", _: CallbackOptions
) -> list[Observation]:
    try:
        return list(sample([board for board in list(boards) if board.is_open]))
    except BaseException as error:  # noqa: BLE001 - SystemExit in a callback would kill a periodic reader for good.
        _log.warning("the state could not be read for the metrics: %s", type(error).__name__)
        return []


def _measured(boards: "list[Board]") -> Iterator[tuple[Sampled, ComponentState]]:
    for board in boards:
        for component, state in board.states():
            if state.error_type is not ErrorType.PENDING:
                yield component, state


def _up(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        yield Observation(1 if state.status.up else 0, {names.COMPONENT: component.name})


def _status(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        for status in Status:
            attributes = {names.COMPONENT: component.name, names.STATUS: status.value}
            yield Observation(1 if state.status is status else 0, attributes)


def _last_run(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _measured(boards):
        if component.last_run is not None:
            yield Observation(component.last_run, {names.COMPONENT: component.name})


def _last_success(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _measured(boards):
        if component.last_success is not None:
            yield Observation(component.last_success, {names.COMPONENT: component.name})


def _observation(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        if state.result is not None and state.error_type is not ErrorType.STALE:
            for name, value in state.result.observations.items():
                yield Observation(value, {names.COMPONENT: component.name, names.OBSERVATION: name})


def _abandoned(boards: "list[Board]") -> Iterator[Observation]:
    for board in boards:
        for component, _ in board.states():
            yield Observation(component.abandoned_runs, {names.COMPONENT: component.name})


def _probes(boards: "list[Board]") -> dict[str, Status]:
    found: dict[str, Status] = {}
    for board in boards:
        for probe, status in board.probe_statuses().items():
            found[probe] = max(status, found.get(probe, Status.PASS))
    return found


def _probe_up(boards: "list[Board]") -> Iterator[Observation]:
    for probe, status in _probes(boards).items():
        yield Observation(1 if status.up else 0, {names.PROBE: probe})


def _probe_status(boards: "list[Board]") -> Iterator[Observation]:
    for probe, held in _probes(boards).items():
        for status in Status:
            yield Observation(1 if held is status else 0, {names.PROBE: probe, names.STATUS: status.value})
