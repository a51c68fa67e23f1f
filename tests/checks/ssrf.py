"""Targets and redirects that try to make an HTTP check connect where it must not, on the tests' island."""

import logging
from dataclasses import dataclass, field
from urllib.parse import quote

from otel_health import Checker, Status
from otel_health.checks import http
from tests.checks.island import Names, world

SITE, OTHER, INSIDE, NEXT = "93.184.216.34", "151.101.1.69", "10.1.2.3", "10.1.2.4"
META = "169.254.169.254"
SECRET = "planted-secret"
NAMES: Names = {
    "site.test": [[SITE]],
    "other.test": [[OTHER]],
    "inside.test": [[INSIDE]],
    "next.test": [[NEXT]],
    "meta.test": [[META]],
    "metadata.google.internal": [[META]],
    "mixed.test": [[SITE, META]],
    "mixed6.test": [[SITE, "fe80::1"]],
    "loop.test": [["127.0.0.1"]],
    "loop6.test": [["::1"]],
    "zero.test": [["0.0.0.0"]],
    "mapped.test": [[f"::ffff:{META}"]],
    "nat64.test": [["64:ff9b::a9fe:a9fe"]],
    "sixtofour.test": [["2002:a9fe:a9fe::1"]],
    "aws6.test": [["fd00:ec2::254"]],
    "azure.test": [["168.63.129.16"]],
    "mcast.test": [["224.0.0.1"]],
    "ula.test": [["fd12::1"]],
}


@dataclass(frozen=True)
class Case:
    """A target, how it is asked, and at which addresses anybody may be asked for it."""

    url: str
    allowed: tuple[str, ...] = ()
    passes: bool = False
    redirects: int = 5
    public: bool = False
    answers: list[list[str]] = field(default_factory=list)
    """What `rebind.test` resolves to, time after time."""


def to(location: str, at: str = "http://site.test") -> str:
    """A target that redirects."""
    return f"{at}/to/{quote(location, safe='')}"


REFUSED_TARGETS = [
    f"http://{META}/",
    f"http://{META}:8080/",
    f"http://[::ffff:{META}]/",
    "http://[::ffff:a9fe:a9fe]/",
    f"http://[::{META}]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fec0::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://[::]/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    "http://255.255.255.255/",
    "http://224.0.0.1/",
    "http://168.63.129.16/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    f"http://site.test@{META}/",
    f"http://user:secret@{META}/",
    f"http://site.test\\@{META}/",
    f"http://site.test /@{META}/",
    f"http://site.test\r\nHost: {META}/",
    f"ftp://{META}/",
    f"gopher://{META}:80/_GET%20/",
    "file:///etc/passwd",
    f"//{META}/",
    f"http:{META}",
    "http:///path",
    "http://site.test:0/",
    "http://site.test:99999/",
    "http://site.test:8080:80/",
]

CASES = [
    # Those that are right, so that the rest means something.
    Case("http://site.test/", (SITE,), passes=True),
    Case("http://site.test/", (SITE,), passes=True, public=True),
    Case(f"http://{SITE}/", (SITE,), passes=True),
    Case("http://inside.test/", (INSIDE,), passes=True),
    Case(f"http://{INSIDE}:8080/", (INSIDE,), passes=True),
    Case("http://ula.test/", ("fd12::1",), passes=True),
    Case("http://localhost/", ("127.0.0.1", "::1"), passes=True),
    Case("http://127.0.0.1/", ("127.0.0.1",), passes=True),
    Case("http://[::1]/", ("::1",), passes=True),
    Case(to("/there"), (SITE,), passes=True),
    Case(to("http://other.test/"), (SITE, OTHER), passes=True),
    Case(to("/there", "http://inside.test"), (INSIDE,), passes=True),
    # Addresses written as no address is written.
    Case("http://2852039166/"),
    Case("http://0xa9fea9fe/"),
    Case("http://0251.0376.0251.0376/"),
    Case("http://0xa9.0xfe.0xa9.0xfe/"),
    Case("http://169.16689662/"),
    Case("http://１６９.２５４.169.254/"),
    Case("http://2130706433/"),
    Case("http://0x7f.1/"),
    Case("http://127.1/"),
    Case("http://0/"),
    # Names that lead there.
    *(Case(f"http://{name}/") for name in ("meta.test", "META.test", "meta.test.", "metadata.google.internal")),
    *(Case(f"http://{name}/") for name in ("mixed.test", "mixed6.test", "loop.test", "loop6.test", "zero.test")),
    *(Case(f"http://{name}.test/") for name in ("mapped", "nat64", "sixtofour", "aws6", "azure", "mcast")),
    Case("http://inside.test/", public=True),
    Case("http://ula.test/", public=True),
    # Names that change their mind: between two runs, and between a redirect and what it leads to.
    Case("http://rebind.test/", (SITE,), passes=True, answers=[[SITE], [META]]),
    Case("http://rebind.test/", answers=[[META], [SITE]]),
    Case(to("/", "http://rebind.test"), (SITE,), answers=[[SITE], [META]]),
    Case(to("/", "http://rebind.test"), (SITE,), answers=[[SITE], ["127.0.0.1"]]),
    Case(to("/", "http://rebind.test"), (SITE,), answers=[[SITE], [SITE, META]]),
    Case(to("/", "http://rebind.test"), (SITE,), public=True, answers=[[SITE], [INSIDE]]),
    Case(to("http://rebind.test:8080/", "http://rebind.test"), (SITE,), answers=[[SITE], [INSIDE]]),
    # Redirects from outside.
    *(
        Case(to(location), (SITE,))
        for location in (
            f"http://{META}/latest/meta-data/",
            f"//{META}/",
            f"http://[::ffff:{META}]/",
            "http://[fe80::1]/",
            "http://2852039166/",
            "http://meta.test/",
            "http://mixed.test/",
            "http://metadata.google.internal/",
            "http://127.0.0.1/",
            "http://localhost/",
            "http://[::1]/",
            "http://127.1/",
            "http://0.0.0.0/",
            "http://loop.test/",
            f"http://{INSIDE}/",
            "http://inside.test/",
            "http://ula.test/",
            f"http://site.test@{META}/",
            f"http://user:secret@{META}/",
            f"http://{META}\\@site.test/",
            "file:///etc/passwd",
            f"gopher://{META}/",
            f"ftp://{META}/",
            f"http:{META}",
            "http://[",
            f"http://site.test:80\t@{META}/",
        )
    ),
    Case(to(to(f"http://{META}/", "http://other.test")), (SITE, OTHER)),
    Case(to(to("http://127.0.0.1:8080/", "http://other.test")), (SITE, OTHER)),
    # Redirects from inside.
    Case(to("http://next.test/", "http://inside.test"), (INSIDE,)),
    Case(to("http://inside.test:8080/", "http://inside.test"), (INSIDE,)),
    Case(to("http://127.0.0.1/", "http://inside.test"), (INSIDE,)),
    Case(to(f"http://{META}/", "http://inside.test"), (INSIDE,)),
    Case(to("http://127.0.0.1:8080/", "http://127.0.0.1"), ("127.0.0.1",)),
    Case(to(f"http://{INSIDE}/", "http://localhost"), ("127.0.0.1", "::1")),
    # Redirects that nobody has asked to follow, one too many, and other ways to point elsewhere.
    Case(to(f"http://{META}/"), (SITE,), redirects=0),
    Case(to("http://other.test/"), (SITE,), redirects=0),
    Case(to(to("http://other.test/")), (SITE,), redirects=1),
    Case(f"http://site.test/hint/{quote(f'http://{META}/', safe='')}", (SITE,), passes=True),
]


async def main() -> dict[str, object]:
    """Return, for every target, what came of it and who was asked."""
    found: list[object] = []
    async with world() as here:
        for case in CASES:
            here.begin(NAMES | {"rebind.test": case.answers})
            verdict, passed = await asked(case)
            hosts = [host for host, _, _ in here.asked]
            told = {host for host, _, head in here.asked if SECRET in head}
            strangers = sorted(told - set(hosts[:1]))
            found.append([passed, hosts, strangers, verdict])
    return {"found": found}


async def asked(case: Case) -> tuple[str, bool]:
    """What one run of the check says, or what its maker does."""
    try:
        headers = {"Authorization": f"Bearer {SECRET}"}
        check = http.answers(case.url, redirects=case.redirects, public=case.public, headers=headers)
    except ValueError as error:
        return str(error), False
    checker = Checker(timeout=2.0, logger=logging.Logger("silent", logging.CRITICAL), trace="never")
    checker.add("it", check)
    result = (await checker.run()).components["it"].result
    assert result is not None
    return f"{result.refined_error_type}: {result.message}", result.status is Status.PASS
