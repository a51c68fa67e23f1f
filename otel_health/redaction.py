"""Turning what a check raised into a line that is safe to keep: bounded, printable, without secrets."""

import re
import traceback
from functools import cache
from typing import Final

MAX_LENGTH: Final = 1024
"""Characters of a message that are kept."""

# Redaction sees far more than is kept, so that no secret is cut in half before it is recognised.
_MAX_READ: Final = 4 * MAX_LENGTH

_WITHHELD: Final = "***"
_SECRET_NAME: Final = (
    r"[\w.-]{0,40}(?:passwo?r?d|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"account[_-]?key|credentials?|signature|sig|auth|session)[\w.-]{0,40}"
)
_USER: Final = r"(?i)\b([a-z][a-z0-9+.-]{1,30}://)"
_RULES: Final = (
    # scheme://user:secret@host, and scheme://secret@host: the user information goes as a whole.
    (_USER + r"[^\s/?#'\"<>@]{0,2048}@", rf"\1{_WITHHELD}@"),
    # A password may itself hold / ? # @ or quotes: take all up to the last @ of the word.
    (_USER + r"[^\s:/]{0,256}:\S{0,2048}@", rf"\1{_WITHHELD}@"),
    (r"(?<![:\w])//[^\s/?#'\"<>@:]{0,256}:\S{0,2048}@", f"//{_WITHHELD}@"),
    # What URL parsers say of a password that they took for a port, and old Redis of a command that it does not know.
    (
        r"(?i)\b((?:invalid|nonnumeric) port: |port could not be cast to integer value as |"
        r"invalid literal for int\(\) with base \d+: )\S+",
        rf"\1{_WITHHELD}",
    ),
    (r"(?i)(with args beginning with:)[^\n]*", rf"\1 {_WITHHELD}"),
    (r"(?i)([?&][\w.%-]{1,64}=)[^\s&#'\"<>]+", rf"\1{_WITHHELD}"),
    (r"(?i)\b(bearer|basic|negotiate|digest)\s+[\w+/=.~:-]{4,}", rf"\1 {_WITHHELD}"),
    (r"(?i)\b((?:set-)?cookie\s*[:=]\s*)[^\n]+", rf"\1{_WITHHELD}"),
    (
        rf"(?i)(['\"]?\b{_SECRET_NAME}['\"]?\s{{0,8}}[:=]\s{{0,8}})(\"[^\"]*\"?|'[^']*'?|[^\s,;&)}}\]]+)",
        rf"\1{_WITHHELD}",
    ),
    (r"(?i)(['\"]pass['\"]\s?:\s?|\bpass\s?=\s?)[^\s,;&)}\]]+", rf"\1{_WITHHELD}"),
    (r"(?i)(--?(?:password|passwd|pass|token|secret|key)[ \t]+)\S+", rf"\1{_WITHHELD}"),
    (r"(?i)\b(identified by|with password|requirepass|masterauth)\s+\S+", rf"\1 {_WITHHELD}"),
    (r"(?i)\b(auth)\s+(?!error|failed|fail|required|is|was|not)\S+(\s+\S+)?", rf"\1 {_WITHHELD}"),
    (r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{12,}\b", _WITHHELD),
    (r"\bAIza[\w-]{30,}", _WITHHELD),
    (r"\beyJ[\w-]{8,2048}\.[\w-]{4,2048}(?:\.[\w-]{0,2048})?", _WITHHELD),
    (r"\b(?:gh[pousr]_|xox[abprs]-|sk[-_](?:live|test|proj)?[-_]?|glpat-)[\w-]{10,}", _WITHHELD),
    (r"(hooks\.slack\.com/services/)\S+", rf"\1{_WITHHELD}"),
    (r"(?s)-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*", _WITHHELD),
)


@cache
def _rules() -> tuple[tuple[re.Pattern[str], str], ...]:
    """The rules, compiled when the first message is made, not at import."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in _RULES)


_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def redact(text: str) -> str:
    """Return `text` as one printable line of at most 1 KiB, without anything that looks like a secret.

    It is the second line of defence (OWASP API8): the first is that anonymous answers hold no message at all.
    """
    text = text[:_MAX_READ]
    for pattern, replacement in _rules():
        text = pattern.sub(replacement, text)
    for blank in ("\r\n", "\n\t", "\n", "\t"):  # libpq indents its second line.
        text = text.replace(blank, " ")
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def describe(exception: BaseException) -> str:
    """Return the redacted text of an exception, whatever its `__str__` does."""
    try:
        return redact(str(exception))
    except BaseException:  # noqa: BLE001 - a hostile __str__ must cost the check its message, not the loop its life.
        return "the exception could not be put into words"


def stack_of(exception: BaseException) -> str:
    """Return the traceback of an exception, with whatever secrets stand in it: for those who allowed that."""
    try:
        return "".join(traceback.format_exception(exception))
    except BaseException:  # noqa: BLE001 - a hostile exception costs its traceback and nothing else.
        return "the traceback could not be formatted"
