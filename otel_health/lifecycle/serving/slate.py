"""Memory that two processes share: one writes what is to be answered, the other reads it, and never half of it."""

import marshal
import mmap
import os
import struct
import zlib
from typing import Final, NamedTuple

SIDE_BYTES: Final = 4 * 2**20
"""What one side holds, at most. Pages that were never written take no memory."""

_HEAD: Final = struct.Struct("<QII")
"""Sequence, length, checksum."""


class Written(NamedTuple):
    """What is answered for one probe, and for how long that may be believed."""

    status: int
    as_json: bytes
    as_text: bytes
    believed_until: float
    """Seconds on the monotonic clock, which is the same for every process of a machine."""


Record = dict[str, Written]
"""By the name of the probe."""


class Slate:
    """Two sides, written in turn.

    While one is being written, for however long that takes, the other is whole; a checksum over the sequence number
    and the content tells whether a side is.

    Args:
        fd: A file of memory, or on a disk that has room for it; it is given its size, and closed by `close`.
        side_bytes: What one side holds, at most.
    """

    def __init__(self, fd: int, side_bytes: int = SIDE_BYTES) -> None:
        self.fd = fd
        self._side_bytes = side_bytes
        os.ftruncate(fd, 2 * side_bytes)
        self._memory = mmap.mmap(fd, 2 * side_bytes)
        self._sequence = 0
        self._read: tuple[int, Record | None] = (0, None)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.fd)

    def write(self, record: Record) -> bool:
        """Put a record in the place of the one before the last; False if it is too large."""
        return self.put(marshal.dumps({probe: tuple(written) for probe, written in record.items()}))

    def put(self, content: bytes) -> bool:
        """Put any content there; False if it is too large."""
        if len(content) > self._side_bytes - _HEAD.size:
            return False
        self._sequence += 1
        at = self._sequence % 2 * self._side_bytes
        self._memory[at + _HEAD.size : at + _HEAD.size + len(content)] = content
        _HEAD.pack_into(self._memory, at, self._sequence, len(content), _checksum(self._sequence, content))
        return True

    def read(self) -> Record | None:
        """Return the last record that is whole; None before the first."""
        sequences = [_HEAD.unpack_from(self._memory, at)[0] for at in (0, self._side_bytes)]
        if max(sequences) != self._read[0]:
            latest = self.latest()
            if latest is not None:
                sequence, content = latest
                self._read = sequence, {probe: Written(*w) for probe, w in marshal.loads(content).items()}
        return self._read[1]

    def latest(self) -> tuple[int, bytes] | None:
        """Return the last content that is whole, after its sequence number; None before the first."""
        return max((side for at in (0, self._side_bytes) if (side := self._side(at)) is not None), default=None)

    def _side(self, at: int) -> tuple[int, bytes] | None:
        sequence, length, checksum = _HEAD.unpack_from(self._memory, at)
        content = self._memory[at + _HEAD.size : at + _HEAD.size + min(length, self._side_bytes - _HEAD.size)]
        whole = sequence > 0 and len(content) == length and _checksum(sequence, content) == checksum
        return (sequence, content) if whole else None


def _checksum(sequence: int, content: bytes) -> int:
    return zlib.crc32(content, sequence & 0xFFFFFFFF)
