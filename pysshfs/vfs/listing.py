"""The names of one directory with their attributes, kept small.

The attributes of all names are in one piece of memory: a listing of a million names as tuples takes
a third of a gigabyte and has the garbage collector look at each of them again and again. They are
taken apart when somebody asks for the entry. The names are the very objects that a
`sanity.ListingCheck` keeps to know duplicates by.

Owned by a `DirectoryStream` while it grows; nobody changes it, or goes through it, before it is
whole.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.vfs.sanity import FileAttributes, is_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A mode of 0 stands for no attributes: every file has a type.
_ATTRIBUTES: Final = struct.Struct("=HQIIqq")
_NONE: Final = _ATTRIBUTES.pack(0, 0, 0, 0, 0, 0)
_LENGTH: Final = _ATTRIBUTES.size
# What an entry takes beside the bytes of its name: the name itself, its place in the list, and its
# attributes.
_ENTRY_BYTES: Final = sys.getsizeof(b"") + 8 + _LENGTH


class ListedEntry(NamedTuple):
    """A name of a listing; None for attributes that no file can have."""

    name: bytes
    attributes: FileAttributes | None


class Listing:
    """A sequence of `ListedEntry`."""

    __slots__ = ("_attributes", "_name_bytes", "_names")

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._attributes = bytearray()
        self._name_bytes = 0

    def append(self, name: bytes, attributes: FileAttributes | None) -> None:
        self._names.append(name)
        self._attributes += _NONE if attributes is None else _ATTRIBUTES.pack(*attributes)
        self._name_bytes += len(name)

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return _ENTRY_BYTES * len(self._names) + self._name_bytes

    @property
    def names(self) -> Sequence[bytes]:
        """All names, in order; not to be changed."""
        return self._names

    def directories(self) -> list[bytes]:
        """The names of what are directories."""
        fields = _ATTRIBUTES.iter_unpack(self._attributes)
        return [
            name for name, (mode, *_) in zip(self._names, fields, strict=True) if is_directory(mode)
        ]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ListedEntry:
        name = self._names[index]
        return _entry(name, _ATTRIBUTES.unpack_from(self._attributes, index * _LENGTH))

    def __iter__(self) -> Iterator[ListedEntry]:
        return map(_entry, self._names, _ATTRIBUTES.iter_unpack(self._attributes))


def _entry(name: bytes, fields: tuple[int, ...]) -> ListedEntry:
    return ListedEntry(name, FileAttributes._make(fields) if fields[0] else None)
