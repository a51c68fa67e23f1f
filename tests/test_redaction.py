"""Messages are safe to keep: bounded, printable, without secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_health.redaction import MAX_LENGTH, describe, redact

SECRET = "s3cr3t-Pa55w0rd"
TEXTS = [
    f"postgresql://orders:{SECRET}@db.internal:5432/orders",
    f"could not connect to postgres://u:{SECRET}@[::1]/x, retrying",
    f"redis://:{SECRET}@cache:6379/0 timed out",
    f"amqp://guest:{SECRET}/with/slashes@mq:5672//",
    f"mongodb+srv://u:{SECRET}#?@cluster0.example.net/test",
    f"https://{SECRET}@api.example.com/v1",
    f"https://api.example.com/v1?api_key={SECRET}&x=1",
    f"GET https://s3/x?X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"GET https://cdn.example.com/x?sid={SECRET}#top failed",
    f'connection failed: password="{SECRET} with spaces"',
    f"dsn: host=db user=u password={SECRET} dbname=x",
    f"{{'password': '{SECRET}', 'user': 'u'}}",
    f'{{"secret_key": "{SECRET}"}}',
    f"PGPASSWORD={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"authorization=Basic {SECRET}=",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"SharedAccessKey={SECRET};EntityPath=x",
    f"AccountKey={SECRET}",
    f"token: {SECRET}",
    f"x-api-key: {SECRET}",
    f"AUTH {SECRET}",
    f"CREATE USER u IDENTIFIED BY '{SECRET}'",
    f"Cookie: theme=dark; sid={SECRET}",
    f"mysqldump --password {SECRET} orders",
    f"passphrase={SECRET}",
    f"invalid literal for int() with base 10: '{SECRET}'",
    f"Port could not be cast to integer value as '{SECRET}'",
    f"nonnumeric port: '{SECRET}@host'",
    f"unknown url type: '//u:{SECRET}@host/x'",
    f"unknown command 'AUTH', with args beginning with: 'u' '{SECRET}'",
    f"{{'pass': '{SECRET}'}}",
    f"https://hooks.slack.com/services/T000/B000/{SECRET}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_are_withheld(text: str) -> None:
    """In URLs, connection strings, headers, mappings, statements and keys."""
    redacted = redact(text)

    assert SECRET not in redacted
    assert "***" in redacted


@pytest.mark.parametrize(
    "key",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "AIza" + "0123456789-abcdefghijklmnopqrst_uvw",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "eyJhbGciOiJI.eyJzdWIi.c2ln",
    ],
)
def test_keys_are_known_by_their_shape(key: str) -> None:
    """Without a word that says so."""
    assert key not in redact(f"denied for {key} today")


@pytest.mark.parametrize(
    "text",
    [
        "connection refused",
        "12,000 messages waiting",
        "[Errno 111] Connect call failed ('127.0.0.1', 5432)",
        'relation "orders" does not exist',
        "authentication failed for user orders",
        "AUTH failed",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """A message that tells nothing helps nobody."""
    assert redact(text) == text


@given(st.text())
def test_every_message_is_one_printable_bounded_line(text: str) -> None:
    """It can be written to a log, a label and a body."""
    redacted = redact(text)

    assert len(redacted) <= MAX_LENGTH
    redacted.encode()
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in redacted)


def test_a_message_of_several_lines_reads_as_one() -> None:
    """As libpq words what every refused connection to PostgreSQL says; whatever else cannot be printed is marked."""
    assert (
        redact("connection refused\n\tIs the server\trunning?\r\nNo.")
        == "connection refused Is the server running? No."
    )
    assert redact("a\x00b") == "a\ufffdb"


def test_a_secret_is_not_cut_in_half() -> None:
    """Redaction comes before the cut."""
    text = "x" * (MAX_LENGTH - 30) + f" postgres://u:{SECRET}@db/" + "y" * 10_000

    assert SECRET[:4] not in redact(text)


def test_ten_megabytes_cost_no_more_than_a_page() -> None:
    """What lies beyond is never looked at."""
    assert len(redact("password=" + "x" * 10_000_000)) < MAX_LENGTH


@pytest.mark.parametrize(
    "hostile",
    [
        "a=" * 8000,
        "://" * 5000,
        "ab://" * 4000,
        "eyJaaaaaaaa-" * 1400,
        "-----BEGIN A" * 1400,
        "pass" * 4000,
        "?x=" * 5000,
        "'" * 16000,
        "auth " * 3000,
        "eyJ" * 5000,
    ],
)
def test_no_text_makes_redaction_slow(hostile: str) -> None:
    """Its patterns are bounded: a hostile message is a message like any other."""
    import time

    begun = time.process_time()
    redact(hostile)
    assert time.process_time() - begun < 0.2


def test_an_exception_that_cannot_be_described_is_said_to_be_one() -> None:
    """Whatever its `__str__` raises."""

    class Hostile(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert describe(Hostile()) == "the exception could not be put into words"
