"""The names of one directory with their attributes, kept small.

A name and its attributes are one bytes object (a record), since a listing of a million names as
tuples takes a third of a gigabyte and has the garbage collector look at each of them again and
again. A record is taken apart when somebody asks for the entry.

Owned by a `DirectoryStream` while it grows; nobody changes it once it is whole and cached.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.vfs.sanity import FileAttributes

if TYPE_CHECKING:
    from collections.abc import Iterator

# A mode of 0 stands for no attributes: every file has a type.
_ATTRIBUTES: Final = struct.Struct("=HQIIqq")
_NONE: Final = _ATTRIBUTES.pack(0, 0, 0, 0, 0, 0)
_LENGTH: Final = _ATTRIBUTES.size
# What a record takes beside its name: itself, and its place in the list.
_RECORD_BYTES: Final = sys.getsizeof(_NONE) + 8


class ListedEntry(NamedTuple):
    """A name of a listing; None for attributes that no file can have."""

    name: bytes
    attributes: FileAttributes | None


class Listing:
    """A sequence of `ListedEntry`."""

    __slots__ = ("_records", "size")

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self.size = 0  # bytes of memory, about

    def append(self, name: bytes, attributes: FileAttributes | None) -> None:
        packed = _NONE if attributes is None else _ATTRIBUTES.pack(*attributes)
        self._records.append(packed + name)
        self.size += _RECORD_BYTES + len(name)

    def name(self, index: int) -> bytes:
        return self._records[index][_LENGTH:]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> ListedEntry:
        return _entry(self._records[index])

    def __iter__(self) -> Iterator[ListedEntry]:
        return map(_entry, self._records)


def _entry(record: bytes) -> ListedEntry:
    fields = _ATTRIBUTES.unpack_from(record)
    return ListedEntry(record[_LENGTH:], FileAttributes._make(fields) if fields[0] else None)
