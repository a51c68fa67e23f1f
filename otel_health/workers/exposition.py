"""The texts of several workers as one: families that belong to this library, told apart by a label."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

OURS: Final = b"otel_health_"
"""What the names of this library's families begin with."""

LABEL: Final = b"service_instance_id"

_END: Final = b"# EOF\n"
_SAMPLE: Final = re.compile(rb"^([A-Za-z_:][A-Za-z0-9_:]*)(\{?)", re.MULTILINE)


class Family(NamedTuple):
    """One family of an exposition: the lines that describe it, and its samples."""

    name: bytes
    head: bytes
    samples: bytes

    @property
    def is_ours(self) -> bool:
        """Whether this library measures it."""
        return self.name.startswith(OURS)


def families(text: bytes) -> Iterator[Family]:
    """Take a text of prometheus-client apart: each family begins with its `# HELP`."""
    for block in re.split(rb"^(?=# HELP )", text.removesuffix(_END), flags=re.MULTILINE):
        lines = block.splitlines(keepends=True)
        described = next((number for number, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
        head = b"".join(lines[:described])
        words = head.split(maxsplit=3)
        yield Family(words[2] if len(words) > 2 else b"", head, b"".join(lines[described:]))


def ours(text: bytes) -> bytes:
    """Return the part of a text that this library measures."""
    return b"".join(family.head + family.samples for family in families(text) if family.is_ours)


def merged(own: bytes, instance: str, others: Mapping[str, bytes]) -> bytes:
    """Return one text of all workers.

    Args:
        own: All that this worker measures; what is not this library's is left as it is.
        instance: What tells this worker from the others.
        others: By what tells them apart, what this library measures in the others.
    """
    heads: dict[bytes, bytes] = {}
    samples: dict[bytes, list[bytes]] = {}

    def add(found: Iterable[Family], whose: str) -> None:
        for family in found:
            heads.setdefault(family.name, family.head)
            labelled = _labelled(family.samples, whose) if family.is_ours else family.samples
            samples.setdefault(family.name, []).append(labelled)

    add(families(own), instance)
    for whose, text in others.items():
        add((family for family in families(text) if family.is_ours), whose)
    end = _END if own.endswith(_END) else b""
    return b"".join(head + b"".join(samples[name]) for name, head in heads.items()) + end


def _labelled(samples: bytes, instance: str) -> bytes:
    label = b'%s="%s"' % (LABEL, instance.encode())

    def put_in(sample: re.Match[bytes]) -> bytes:
        return sample[1] + b"{" + label + (b"," if sample[2] else b"}")

    return _SAMPLE.sub(put_in, samples)
