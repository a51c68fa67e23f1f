"""Check functions, the policy a check carries, and what its outcome means."""

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import ClassVar, Final, Protocol, TypedDict

from otel_health.ladder import Action, Ladder, steps_of
from otel_health.redaction import describe, redact
from otel_health.report import MAX_OBSERVATIONS, NO_OBSERVATIONS, CheckResult, ErrorType, Status, made

CheckReturn = None | bool | Mapping[str, float]
CheckFunc = Callable[[], CheckReturn | Awaitable[CheckReturn]]
"""A callable without arguments, sync or async, that speaks for one component.

Returning None, True or a mapping of observations passes, returning False or raising fails,
raising `Degraded` warns.
"""

LIVEZ: Final = "livez"
READYZ: Final = "readyz"
STARTUPZ: Final = "startupz"
HEALTHZ: Final = "healthz"
STANDARD_PROBES: Final = (LIVEZ, READYZ, STARTUPZ, HEALTHZ)

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_NAME_RULE: Final = "use 1 to 64 letters, digits, '_', '.' or '-', beginning with a letter or digit"
_MAKER_RULE: Final = "what makes a check function is none; call it, and register what it returns"
_RETURN_RULE: Final = (
    "a check returns None or True to pass, False to fail, or a mapping of at most "
    f"{MAX_OBSERVATIONS} names to finite numbers; where finishing is passing, use completes(function, *args)"
)


class Outcome(Exception):
    """What a check function raises to say more than a bare exception could; see `Degraded` and `Failed`.

    Args:
        reason: One sentence for the operator.
        observations: Finite numbers measured on the way, at most 16.

    Raises:
        ValueError: An observation is not a finite number.
    """

    observations: Mapping[str, float] = NO_OBSERVATIONS
    planned: ClassVar[bool] = False
    """Whether it is as the application wants it, and so nothing that has gone wrong."""

    def __init__(self, reason: str, /, **observations: float) -> None:
        super().__init__(reason)
        self.observations = observed(observations)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), *self.args, **self.observations), ()


class Degraded(Outcome):
    """Raised by a check function whose component works, but not as well as it should: it warns.

    Example:
        >>> raise Degraded("12,000 messages waiting", backlog=12_000)
    """


class Failed(Outcome):
    """Raised by a check function whose component does not work: it fails.

    Example:
        >>> raise Failed("120,000 messages waiting", backlog=120_000)
    """


class CheckOptions(TypedDict, total=False):
    """The policy a check may be registered with; what is left out comes from its Checker."""

    timeout: float
    """Seconds one run may take (a hard deadline)."""
    interval: float
    """Seconds between the renewals by a started Checker, plus or minus 10 %."""
    probes: Collection[str]
    """The probes that ask this check; `healthz` always does."""
    local: bool
    """The author's word that the check looks only inside this process; `livez` takes no other."""
    critical: bool
    """Whether a failure turns its probes to fail, not only to warn."""
    warn_after: float | None
    """Seconds from which a pass is a warn."""
    failure_threshold: int
    """Consecutive failures before an up component is held to fail."""
    success_threshold: int
    """Consecutive successes before a component that is not up is held to be up."""
    initial_delay: float
    """Seconds before the first run of a started Checker."""
    shared: bool
    """Whether one worker's result serves its siblings, where `Workers` are open; elsewhere it changes nothing."""
    recover: Action | Ladder | None
    """What an open Checker does once the failure is confirmed: a function, sync or async, or a ladder of them."""
    recover_within: float
    """Seconds that it may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check function with its name and its policy. See `CheckOptions` for units."""

    name: str
    function: CheckFunc
    timeout: float = 3.0
    interval: float = 10.0
    probes: Collection[str] = frozenset({READYZ})
    local: bool = False
    critical: bool = True
    warn_after: float | None = None
    failure_threshold: int = 1
    success_threshold: int = 1
    initial_delay: float = 0.0
    shared: bool = False
    recover: Action | Ladder | None = None
    recover_within: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            TypeError: The function cannot be called, or not without arguments.
            ValueError: A name or an option is out of its range.
        """
        subject = f"check {self.name!r}"
        require_name(self.name, "check")
        _require_no_arguments(subject, require_callable(subject, self.function))
        require_seconds(subject, "timeout", self.timeout)
        require_seconds(subject, "interval", self.interval)
        if self.warn_after is not None:
            require_seconds(subject, "warn_after", self.warn_after)
            if self.warn_after >= self.timeout:
                raise ValueError(
                    f"{subject}: warn_after={self.warn_after!r} can never be reached before the timeout of "
                    f"{self.timeout!r} s; make it smaller"
                )
        require_count(subject, "failure_threshold", self.failure_threshold)
        require_count(subject, "success_threshold", self.success_threshold)
        if self.initial_delay != 0 or isinstance(self.initial_delay, bool):
            require_seconds(subject, "initial_delay", self.initial_delay)
        for option in ("local", "critical", "shared"):
            require_bool(subject, option, getattr(self, option))
        object.__setattr__(self, "probes", _probes(subject, self.probes))
        for action in steps_of(self.recover):
            if not callable(action):
                raise TypeError(
                    f"{subject}: recover is a {type(action).__name__}; pass a function, not its result, "
                    "or a ladder of several"
                )
            _require_no_arguments(subject, _signature_of(action), "a recovery action")
        require_seconds(subject, "recover_within", self.recover_within)
        if self.local and self.shared:
            raise ValueError(
                f"{subject}: what is local to a process cannot be shared; leave out local=True or shared=True"
            )
        if LIVEZ in self.probes and not self.local:
            raise ValueError(
                f"{subject}: livez takes only checks declared local=True, since its failure restarts the process; "
                "leave livez out, or declare the check local if it looks only inside this process"
            )

    def asked_by(self, probe: str) -> bool:
        """Whether this probe asks this check."""
        return probe == HEALTHZ or probe in self.probes

    @property
    def fresh_for(self) -> float:
        """Seconds for which a result of this check is believed: two intervals plus its timeout."""
        return 2 * self.interval + self.timeout


_OPTIONS: Final = tuple(field.name for field in fields(Check) if field.name not in {"name", "function"})


def require_callable(subject: str, function: object) -> inspect.Signature | None:
    """Refuse what cannot be called, as the result of a check cannot, and what only makes a check function.

    The latter would look at nothing, and where finishing is passing it would always pass. Returns the signature, if it
    can be told.
    """
    if not callable(function):
        raise TypeError(
            f"{subject}: {type(function).__name__} cannot be called; pass the function, not its result, nor a client "
            "(otel_health.checks makes functions of those)"
        )
    signature = _signature_of(function)
    if signature is not None and signature.return_annotation in (CheckFunc, "CheckFunc"):
        raise TypeError(
            f"{subject}: the function makes a check function and is none; call it, and pass what it returns"
        )
    return signature


def _signature_of(function: Callable[..., object]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except Exception:  # noqa: BLE001 - callables of C may have none, and annotations name what is not there.
        return None  # The first run will tell.


def _require_no_arguments(subject: str, signature: inspect.Signature | None, what: str = "a check") -> None:
    parameters = () if signature is None else signature.parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in optional]
    if needed:
        raise TypeError(
            f"{subject}: the function needs {', '.join(needed)}, and {what} takes no arguments; "
            "bind them with functools.partial or completes(function, *args)"
        )


def require_known(subject: str, options: Mapping[str, object]) -> None:
    """Refuse an option nobody knows, naming the one that was probably meant."""
    for option in options:
        if option not in _OPTIONS:
            close = get_close_matches(option, _OPTIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(_OPTIONS)}"
            raise TypeError(f"{subject}: unknown option {option!r}; {hint}")


def slips(probes: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each probe that is nearly a standard one, with that one: `ready` is hardly ever meant to be another."""
    for probe in set(probes).difference(STANDARD_PROBES):
        for meant in get_close_matches(probe, (LIVEZ, READYZ, STARTUPZ), n=1, cutoff=0.85):  # Healthz asks all.
            if meant not in probes:
                yield probe, meant


def require_name(name: object, what: str) -> None:
    """Refuse a name that could not stand in a route and a label."""
    if callable(name):
        raise TypeError(f"{name!r} cannot name a {what}: the name comes first, then the function")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot name a {what}: {_NAME_RULE}")


def require_seconds(subject: str, option: str, value: object) -> None:
    """Refuse anything but a positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < _as_float(value) < math.inf:
        raise ValueError(f"{subject}: {option}={value!r} must be a positive, finite number of seconds")


def require_count(subject: str, option: str, value: object) -> None:
    """Refuse anything but a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{subject}: {option}={value!r} must be a whole number, at least 1")


def require_shares(subject: str, *, most: float = 1.0, **limits: float | None) -> None:
    """Refuse a limit that no share ever reaches: as a rule somebody meant percent."""
    for option, limit in limits.items():
        if isinstance(limit, Real) and limit > most:
            raise ValueError(
                f"{subject}: {option}={limit!r} would never be reached; write a share, such as 0.9 for 90 %"
            )


def require_bool(subject: str, option: str, value: object) -> None:
    """Refuse anything but True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{subject}: {option}={value!r} must be True or False")


def _probes(subject: str, probes: object) -> frozenset[str]:
    if isinstance(probes, str) or not isinstance(probes, Collection):
        raise ValueError(f"{subject}: probes={probes!r} must be a set of names, such as {{'readyz'}}")
    for probe in probes:
        require_name(probe, "probe")
    return frozenset(probes)


def observed(observations: Mapping[str, float]) -> Mapping[str, float]:
    """Return the observations as a read-only mapping of floats.

    Raises:
        ValueError: There are more than 16, or one is ill-named or not a finite number.
    """
    pairs = dict(observations)
    if len(pairs) > MAX_OBSERVATIONS:
        raise ValueError(f"{len(pairs)} observations; a check may record at most {MAX_OBSERVATIONS}")
    for name, value in pairs.items():
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} cannot name an observation: {_NAME_RULE}")
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real | Decimal) else _as_float(value)
        if not math.isfinite(number):
            raise ValueError(f"observation {name!r} is {type(value).__name__}, not a finite number")
        pairs[name] = number
    return MappingProxyType(pairs)


def _as_float(value: float | Real | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling it gives a coroutine: coroutine functions, objects with an async `__call__`, partials of them."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def in_thread(function: Callable[[], CheckReturn]) -> CheckFunc:
    """Return a check function that calls `function` in a thread, even if it looks asynchronous.

    Plain functions run in a thread anyway; this is for callables that only seem to be coroutine functions
    (a decorator that marks them so), and says the intention where a reader might wonder.

    Raises:
        TypeError: The function cannot be called, or makes a check function and is none.
    """
    require_callable("in_thread", function)

    def check() -> CheckReturn:
        return function()

    return check


def completes(function: Callable[..., object], /, *args: object) -> CheckFunc:
    """Return a check function for which finishing is passing, whatever `function(*args)` returns.

    Raises:
        TypeError: The function cannot be called, or makes a check function, which looks at nothing yet.

    Example:
        >>> checker.add("postgres", completes(pool.fetchval, "SELECT 1"))
    """
    require_callable("completes", function)
    if is_async(function):

        async def check() -> None:
            await _awaited(function(*args))

        return check

    def call() -> Awaitable[None] | None:
        value = function(*args)
        return _awaited(value) if inspect.isawaitable(value) else None

    return call


async def _awaited(value: object) -> None:
    if inspect.isawaitable(value):
        await value


class Ending(Protocol):
    """How a run ended: by a value, by an exception, or for a reason that left the check function without a say."""

    value: object
    exception: BaseException | None
    reason: ErrorType | None
    duration: float | None
    blocked: float
    timeout: float


def judge(check: Check, ending: Ending, checked_at: float) -> CheckResult:
    """Return what the ending of a run means: what is not understood fails, whatever it does to be understood."""
    if check.warn_after is None and ending.value is None and ending.exception is None and ending.reason is None:
        # Most runs end like this.
        return made(
            CheckResult, (check.name, Status.PASS, ending.duration, checked_at, None, None, NO_OBSERVATIONS, None)
        )
    try:
        return _judge(check, ending, checked_at)
    except BaseException as error:  # noqa: BLE001 - a foreign object that breaks its own judgement has failed.
        message = f"the outcome could not be judged: {type(error).__name__}"
        return CheckResult(check.name, Status.FAIL, ending.duration, checked_at, ErrorType.INVALID_RESULT, message)


def _judge(check: Check, ending: Ending, checked_at: float) -> CheckResult:
    duration = ending.duration
    if ending.reason is not None:
        return _undecided(check, ending.reason, ending, checked_at)
    if ending.exception is not None:
        return _raised(check, ending.exception, duration, checked_at)
    value, observations = ending.value, NO_OBSERVATIONS
    if value is not None and value is not True:
        if value is False:
            return CheckResult(check.name, Status.FAIL, duration, checked_at, ErrorType.FAILED, "returned False")
        try:
            if not isinstance(value, Mapping):
                raise ValueError(f"returned {type(value).__name__}")
            observations = observed(value)
        except BaseException as exception:  # noqa: BLE001 - a foreign mapping may raise anything; that is its verdict.
            message = redact(f"{describe(exception)}: {_MAKER_RULE if callable(value) else _RETURN_RULE}")
            return CheckResult(check.name, Status.FAIL, duration, checked_at, ErrorType.INVALID_RESULT, message)
    if check.warn_after is not None and duration is not None and duration >= check.warn_after:
        message = f"took {duration:.3f} s; warn_after is {check.warn_after:g} s"
        return CheckResult(check.name, Status.WARN, duration, checked_at, ErrorType.SLOW, message, observations)
    return CheckResult(check.name, Status.PASS, duration, checked_at, None, None, observations)


def _raised(check: Check, exception: BaseException, duration: float | None, checked_at: float) -> CheckResult:
    message = describe(exception)
    if isinstance(exception, Outcome):
        warns = isinstance(exception, Degraded)
        status, error_type = (Status.WARN, ErrorType.DEGRADED) if warns else (Status.FAIL, ErrorType.FAILED)
        return CheckResult(check.name, status, duration, checked_at, error_type, message, exception.observations)
    name = redact(type(exception).__name__)
    return CheckResult(check.name, Status.FAIL, duration, checked_at, ErrorType.FAILED, message, exception_type=name)


def _undecided(check: Check, reason: ErrorType, ending: Ending, checked_at: float) -> CheckResult:
    blocking = f", and blocked the event loop for {ending.blocked:.3g} s" if ending.blocked else ""
    message = {
        ErrorType.TIMEOUT: f"did not end within {ending.timeout:.3g} s{blocking}",
        ErrorType.HUNG: "an earlier run is still alive past its deadline; nothing was started",
        ErrorType.SATURATED: f"no thread came free within {ending.timeout:.3g} s",
    }[reason]
    return CheckResult(check.name, Status.FAIL, ending.duration, checked_at, reason, message)
