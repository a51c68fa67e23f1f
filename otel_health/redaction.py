"""Turning what a check raised into a line that is safe to keep: bounded, printable, without secrets."""

import re
from typing import Final

MAX_LENGTH: Final = 1024
"""Characters of a message that are kept."""

# Redaction sees far more than is kept, so that no secret is cut in half before it is recognised.
_MAX_READ: Final = 16 * MAX_LENGTH

_WITHHELD: Final = "***"
_SECRET_NAME: Final = (
    r"[\w.-]{0,40}(?:passwo?r?d|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"account[_-]?key|credential|signature|sig|auth|cookie|session)[\w.-]{0,40}"
)
_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # scheme://user:secret@host, and scheme://secret@host: the user information goes as a whole.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,30}://)[^\s/?#'\"<>]*@"), rf"\1{_WITHHELD}@"),
    # A password may itself hold / ? # @ or quotes: take all up to the last @ of the word.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,30}://)[^\s:/]*:\S*@"), rf"\1{_WITHHELD}@"),
    (re.compile(r"(?i)([?&][\w.%-]{1,64}=)[^\s&#'\"<>]+"), rf"\1{_WITHHELD}"),
    (re.compile(r"(?i)\b(bearer|basic|negotiate|digest)\s+[\w+/=.~:-]{4,}"), rf"\1 {_WITHHELD}"),
    (
        re.compile(rf"(?i)(['\"]?\b{_SECRET_NAME}['\"]?\s*[:=]\s*)(\"[^\"]*\"?|'[^']*'?|[^\s,;&)}}\]]+)"),
        rf"\1{_WITHHELD}",
    ),
    (re.compile(r"(?i)\b(identified by|with password|requirepass|masterauth)\s+\S+"), rf"\1 {_WITHHELD}"),
    (re.compile(r"(?i)\b(auth)\s+(?!error|failed|fail|required|is|was|not)\S+(\s+\S+)?"), rf"\1 {_WITHHELD}"),
    (re.compile(r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{12,}\b"), _WITHHELD),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"), _WITHHELD),
    (re.compile(r"\b(?:gh[pousr]_|xox[abprs]-|sk[-_](?:live|test|proj)?[-_]?|glpat-)[\w-]{10,}"), _WITHHELD),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), _WITHHELD),
)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def redact(text: str) -> str:
    """Return `text` as one printable line of at most 1 KiB, without anything that looks like a secret.

    It is the second line of defence (OWASP API8): the first is that anonymous answers hold no message at all.
    """
    text = text[:_MAX_READ]
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", " ").replace("\n", " "))
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def describe(exception: BaseException) -> str:
    """Return the redacted text of an exception, whatever its `__str__` does."""
    try:
        return redact(str(exception))
    except BaseException:  # noqa: BLE001 - a hostile __str__ must cost the check its message, not the loop its life.
        return "the exception could not be put into words"
