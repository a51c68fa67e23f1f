"""The instruments: durations and failures as they happen, all else read from memory when somebody collects."""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    NoOpMeterProvider,
    Observation,
    get_meter_provider,
)

from otel_health import names
from otel_health.forks import tell_of_forks
from otel_health.report import (
    MAX_OBSERVATIONS,
    CheckResult,
    ComponentState,
    ErrorType,
    RecoveryState,
    Status,
    TaskState,
)

DURATION_BOUNDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds. Few, since most of a scrape's cost is the writing of buckets; 1.0 is kubelet's default timeout."""

LAG_BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Seconds: from what nobody notices to what a liveness probe restarts for."""

DEFAULT_CARDINALITY: Final = 2000
"""Attribute sets that one stream of the SDK holds by default before it folds the rest into an overflow series."""

_NO_SPAN: Final = Context({names.SCOPE: None})
"""What a duration is recorded in: the SDK need not look for a span, whose exemplar nobody would see."""

_log = logging.getLogger(names.SCOPE)


Tell = Callable[..., None]
"""Takes a message and its arguments, as a logger's methods do."""


class Sampled(Protocol):
    """What the metrics read of a component beside its state."""

    @property
    def name(self) -> str: ...
    @property
    def optional(self) -> bool: ...
    @property
    def slow(self) -> bool: ...
    @property
    def last_run(self) -> float | None: ...
    @property
    def last_success(self) -> float | None: ...
    @property
    def abandoned_runs(self) -> int: ...
    @property
    def task_state(self) -> TaskState | None: ...

    prepared: object
    """What the metrics keep for the component, so that a scrape need not make it anew; None before the first."""


_NOTHING: Final[tuple[Mapping[str, float], tuple[Observation, ...]]] = {}, ()


class Prepared:
    """What a scrape says of one component again and again: made once, yielded every time."""

    __slots__ = ("_last", "attributes", "labels", "status", "up")

    def __init__(self, name: str) -> None:
        self.attributes = {names.COMPONENT: name}
        self.up = {up: Observation(int(up), self.attributes) for up in (False, True)}
        labels = {status: {names.COMPONENT: name, names.STATUS: status.value} for status in Status}
        on = {status: Observation(1, labels[status]) for status in Status}
        off = {status: Observation(0, labels[status]) for status in Status}
        self.status = {held: [(on if each is held else off)[each] for each in Status] for held in Status}
        self.labels: dict[str, dict[str, str]] = {}
        """The attributes of what the check measures, by its names for it."""
        self._last = _NOTHING
        """What the check measured last, and the samples of it; replaced as one, since several may collect at once."""

    def measured(self, observations: Mapping[str, float]) -> tuple[Observation, ...]:
        """Return the samples of what the check has measured; made anew where that has changed."""
        known, samples = self._last
        if known != observations:
            samples = tuple(Observation(value, self._labelled(name)) for name, value in observations.items())
            self._last = observations, samples
        return samples

    def _labelled(self, name: str) -> dict[str, str]:
        labels = self.labels.get(name)
        if labels is None:
            if len(self.labels) >= MAX_OBSERVATIONS:
                self.labels.clear()  # A check that invents new names all the time costs time, not memory.
            labels = self.labels[name] = {**self.attributes, names.OBSERVATION: name}
        return labels


def _prepared(component: Sampled) -> Prepared:
    prepared = component.prepared
    if not isinstance(prepared, Prepared):
        prepared = component.prepared = Prepared(component.name)
    return prepared


class Registered(Protocol):
    """The registration of an instance somewhere, as the metrics read it from any thread."""

    attributes: dict[str, str]
    """Where, and of which service."""

    @property
    def is_registered(self) -> bool: ...
    @property
    def may_be_known(self) -> bool: ...


class Board(Protocol):
    """The state of one Checker, as the metrics read it from any thread."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def is_published(self) -> bool: ...
    @property
    def registrations(self) -> Collection[Registered]: ...
    def fault(self, message: str, *arguments: object) -> None: ...
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
        self.forked()
        tell_of_forks(self)
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
        self._counters = {
            name: meter.create_counter(name, "", description)
            for name, description in (
                (
                    names.TASK_CRASHES,
                    "How often a supervised task ended that should not have, by the type of its error.",
                ),
                (names.RECOVERY_ATTEMPTS, "How often a recovery action was taken, by how that ended."),
                (names.TASK_RESTARTS, "How often a supervised task was started anew."),
                (
                    names.REGISTRATION_FAILURES,
                    "How often a call to a service registry failed, by the type of its error.",
                ),
            )
        }
        self._lag = meter.create_histogram(
            names.EVENT_LOOP_LAG,
            "s",
            "How late the event loop came to what was due.",
            explicit_bucket_boundaries_advisory=list(LAG_BOUNDS),
        )
        self._observe(meter)

    def forked(self) -> None:
        """Have a lock that nobody holds."""
        self._lock = threading.Lock()

    def open(self, board: Board) -> None:
        """Publish a Checker's state from now on."""
        with self._lock:
            self._boards.add(board)
            components = sum(len(each.names) for each in self._boards)
        if self._publishes and components * len(Status) > self._limit and not self._warned:
            self._warned = True
            board.fault(
                "%d components need %d attribute sets of %s, more than the %d that one stream of the SDK holds by "
                "default; raise the metric reader's cardinality_limits, or the rest is folded into an overflow series",
                components,
                components * len(Status),
                names.CHECK_STATUS,
                self._limit,
            )

    def close(self, board: Board) -> None:
        """Publish the Checker's state no more."""
        with self._lock:
            self._boards.discard(board)

    def refuse_shared(self, board: Board, added: Iterable[str]) -> None:
        """Refuse names that another open Checker of this provider has, whatever their case.

        Raises:
            ValueError: There is one.
        """
        new = {name.casefold() for name in added}
        for other in self._open():
            shared = new.intersection(name.casefold() for name in other.names) if other is not board else None
            if shared and self._publishes and other.is_open:
                raise ValueError(
                    f"two open Checkers of one meter provider have a component {min(shared)!r}, and their metrics "
                    "could not be told apart; rename one, or give one Checker a meter_provider of its own"
                )

    def record(self, result: CheckResult, attributes: dict[str, str], tell: Tell) -> None:
        """Take in one result. A provider at fault is told of once, and changes nothing else."""
        try:
            if result.duration is not None:
                self._duration.record(result.duration, attributes, _NO_SPAN)
            if result.status is Status.FAIL:
                self._failures.add(1, {**attributes, names.ERROR_TYPE: str(result.refined_error_type)})
        except BaseException as error:  # noqa: BLE001 - telemetry never hurts, whatever the provider does.
            self._lose(error, tell)

    def count(self, name: str, attributes: dict[str, str], tell: Tell) -> None:
        """Count something that has happened, by the name of its instrument."""
        try:
            self._counters[name].add(1, attributes)
        except BaseException as error:  # noqa: BLE001 - as in record.
            self._lose(error, tell)

    def record_lag(self, seconds: float, tell: Tell) -> None:
        """Take in how late the event loop was."""
        try:
            self._lag.record(seconds)
        except BaseException as error:  # noqa: BLE001 - as in record.
            self._lose(error, tell)

    def _lose(self, error: BaseException, tell: Tell) -> None:
        if not self._faulty:
            self._faulty = True
            tell("the meter provider fails to record, metrics are lost: %s", type(error).__name__)

    def _open(self) -> "list[Board]":
        """The Checkers that are published, those that run in the background first."""
        with self._lock:
            boards = list(self._boards)
        return sorted((board for board in boards if board.is_published), key=lambda board: not board.is_open)

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
        up_down(names.RECOVERY_STATE, [self._read(_recovery_state)], "", "1 for how the recovery stands, else 0.")
        up_down(names.TASK_STATE, [self._read(_task_state)], "", "1 for what the supervised task is doing, else 0.")
        gauge(
            names.CHECK_ERROR_SINCE,
            [self._read(_error_since)],
            "s",
            "Since when the component warns or fails, in Unix time, with its error; nothing while it passes.",
        )
        gauge(
            names.CHECK_SLOW,
            [self._read(_slow)],
            "",
            "1 while the runs of an up component take nearly as long as their timeout; nothing while they do not.",
        )
        gauge(
            names.CHECK_OPTIONAL,
            [self._read(_optional)],
            "",
            "1 for a check whose failure takes no instance out of service; else nothing.",
        )
        gauge(
            names.REGISTRATION_UP,
            [self._read(_registered)],
            "",
            "1 while a registry holds the instance, else 0.",
        )
        gauge(names.PROBE_UP, [self._read(_probe_up)], "", "1 while the probe passes or warns, 0 while it fails.")
        up_down(names.PROBE_STATUS, [self._read(_probe_status)], "", "1 for the status that the probe has, else 0.")

    def _read(self, sample: "Callable[[list[Board]], Iterator[Observation]]") -> "_Callback":
        def collect(_: CallbackOptions) -> list[Observation]:
            boards = []
            try:
                boards = self._open()
                return list(sample(boards))
            except BaseException as error:  # noqa: BLE001 - SystemExit here would kill a periodic reader for good.
                for board in boards:
                    board.fault("the state could not be read for the metrics: %s", type(error).__name__)
                return []

        return collect


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
        known = _instruments[chosen] = _made(chosen)
        if chosen is current:
            _global["instruments"] = known
    return known


def _made(provider: MeterProvider) -> Instruments:
    try:
        return Instruments(provider)
    except Exception as error:  # noqa: BLE001 - telemetry never hurts, whatever the provider does.
        _log.warning("the meter provider makes no instruments, metrics are lost: %s", type(error).__name__)
        return Instruments(NoOpMeterProvider())


_instruments: "WeakKeyDictionary[MeterProvider, Instruments]" = WeakKeyDictionary()
_global: dict[str, Instruments] = {}


def _components(boards: "list[Board]") -> Iterable[tuple[Sampled, ComponentState]]:
    """Every component once: of a name that two Checkers share, the first."""
    if len(boards) == 1:
        return boards[0].states()
    found: dict[str, tuple[Sampled, ComponentState]] = {}
    for board in boards:
        for component, state in board.states():
            found.setdefault(component.name, (component, state))
    return found.values()


def _measured(boards: "list[Board]") -> list[tuple[Sampled, ComponentState]]:
    return [found for found in _components(boards) if found[1].error_type is not ErrorType.PENDING]


def _up(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        yield _prepared(component).up[state.status is not Status.FAIL]


def _status(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        yield from _prepared(component).status[state.status]


def _last_run(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _measured(boards):
        if component.last_run is not None:
            yield Observation(component.last_run, _prepared(component).attributes)


def _last_success(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _measured(boards):
        if component.last_success is not None:
            yield Observation(component.last_success, _prepared(component).attributes)


def _observation(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        result = state.result
        if result is not None and result.observations and state.error_type is not ErrorType.STALE:
            yield from _prepared(component).measured(result.observations)


def _abandoned(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _components(boards):
        yield Observation(component.abandoned_runs, _prepared(component).attributes)


def _recovery_state(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _components(boards):
        if state.recovery is not None:
            for each in RecoveryState:
                attributes = {**_prepared(component).attributes, names.STATE: each.value}
                yield Observation(int(each is state.recovery.state), attributes)


def _task_state(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _components(boards):
        doing = component.task_state
        if doing is not None:
            for each in TaskState:
                yield Observation(int(each is doing), {**_prepared(component).attributes, names.STATE: each.value})


def _error_since(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _components(boards):
        if state.error_type is not None:
            # While a recovery has not lasted long enough, the last result is a pass.
            result = state.result if state.error_type is ErrorType.FAILED else None
            error_type = (result and result.refined_error_type) or state.error_type
            yield Observation(state.since, {**_prepared(component).attributes, names.ERROR_TYPE: str(error_type)})


def _slow(boards: "list[Board]") -> Iterator[Observation]:
    for component, state in _measured(boards):
        if component.slow and state.status.up:
            yield Observation(1, _prepared(component).attributes)


def _optional(boards: "list[Board]") -> Iterator[Observation]:
    for component, _ in _components(boards):
        if component.optional:
            yield Observation(1, _prepared(component).attributes)


def _registered(boards: "list[Board]") -> Iterator[Observation]:
    for board in boards:
        for registration in list(board.registrations):
            yield Observation(int(registration.is_registered), registration.attributes)


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
