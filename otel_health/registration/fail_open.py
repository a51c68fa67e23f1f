"""Failing open: what every replica of a service fails is no reason to send its traffic elsewhere."""

import time
from collections.abc import Mapping
from typing import Final, cast

from otel_health.check import Check, CheckFunc, CheckReturn, Degraded, Ending, Failed, judge
from otel_health.compose import ending_of
from otel_health.registration.registration import Registration
from otel_health.report import Status

SHARE: Final = 0.6
"""How much of its time a check may take; the rest is for asking the registry how the others are."""


def fail_open(dependency: str, check: CheckFunc, registration: Registration) -> CheckFunc:
    """Return a check function that only warns where every replica of this service fails the same.

    Where this replica alone fails, or some others do not, it fails as ever: there are better replicas to send
    traffic to. What the others find is read from the registry, from those that are registered, fresh and not in
    maintenance, and only while this check fails. Where the registry cannot be asked in time, where there is no other
    replica, or where one says nothing of the dependency, it is as if this were not here.

    Its price: where every replica fails, requests reach the application and fail there, instead of finding nobody;
    nothing shifts them to another region. Use it for what part of the traffic can do without.

    Args:
        dependency: What is checked, by the name of its check, which is the same in every replica.
        check: The check function; it has three fifths of the timeout, the rest is for asking the registry.
        registration: This replica's, which tells the others what is found here.

    Raises:
        ValueError: The name is ill-formed, or there are too many dependencies.

    Example:
        >>> checker.add("postgres", fail_open("postgres", completes(pool.fetchval, "SELECT 1"), registration))
    """
    asked = Check(name=dependency, function=check)
    registration.findings.share(dependency)

    async def others() -> Mapping[str, float]:
        """How many other replicas there are, and how many of them fail as well."""
        # Told before it asks: of all who fail at once, the last to ask sees that it is all of them.
        await registration.told_of(dependency, Status.FAIL)
        peers = await registration.peers()
        failing = [peer for peer in peers if peer.standing.dependencies.get(dependency) is Status.FAIL]
        return {"replicas": len(peers), "failing": len(failing)}

    async def checked() -> CheckReturn:
        ending = await ending_of("check", check, share=SHARE)
        result = judge(asked, ending, time.time())
        registration.findings.found(dependency, result.status)
        if result.status.up:
            return _again(ending)
        known = (await ending_of("others", others)).value
        if isinstance(known, Mapping) and 0 < known["replicas"] == known["failing"]:
            raise Degraded(
                f"fails in all {known['replicas'] + 1:g} replicas, so that none is better: {result.message}",
                **result.observations,
            )
        return _again(ending, result.message)

    return checked


def _again(ending: Ending, message: str | None = None) -> CheckReturn:
    """End as the check itself has ended."""
    if ending.exception is not None:
        raise ending.exception
    if ending.reason is not None:
        raise Failed(f"{ending.reason}: {message}")
    return cast("CheckReturn", ending.value)
