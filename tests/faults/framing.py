"""Where SSH's packets begin and end in the bytes of one direction of a connection.

Owns nothing but counters. Packets can be told apart without any key as long as their length is in
the clear: before NEWKEYS (RFC 4253, 6), and after it with AES-GCM, where length, payload and a tag
of 16 bytes follow one another (RFC 5647, 7.3). Which cipher was agreed on is read from both sides'
KEXINIT, and anything but AES-GCM is a `FramingError`: nobody is to cut at places that mean nothing.
New keys for the same cipher change no boundary, so the count goes on through them; what cannot be
the length of a packet is a `FramingError`, too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: For `-o`: what a client must be told so that its packets can be counted.
CIPHER: Final = "Ciphers=aes128-gcm@openssh.com"

_COUNTABLE: Final = {"aes128-gcm@openssh.com", "aes256-gcm@openssh.com"}
_LENGTH: Final = 4
_TAG: Final = 16
_BLOCK: Final = 16
_KEXINIT: Final = 20
_NEWKEYS: Final = 21
_MOST: Final = 1 << 20  # bytes; OpenSSH's own limit is a quarter of it
_LONGEST_LINE: Final = 1024  # bytes, of what comes before the first packet


class FramingError(AssertionError):
    """The bytes cannot be counted as packets."""


class Ciphers(NamedTuple):
    """The ciphers that one side's KEXINIT names, best first."""

    to_server: list[str]
    to_client: list[str]


def check_countable(client: Ciphers, server: Ciphers) -> None:
    """FramingError unless both directions will use a cipher whose packets can be counted."""
    for ours, theirs in zip(client, server, strict=True):
        agreed = next((name for name in ours if name in theirs), None)
        if agreed not in _COUNTABLE:
            raise FramingError(f"packets cannot be counted with the cipher {agreed}")


class Framing:
    """One direction. `take` is fed with all its bytes, never more of them than `room` at a time.

    `position` is the number of bytes taken, `packets` that of whole packets. The packet in hand
    begins at `begin`, which is None during the version line, and ends at `end`, which is None
    until its length is known.
    """

    def __init__(self) -> None:
        self.position = 0
        self.packets = 0
        self.begin: int | None = None
        self.end: int | None = None
        self.encrypted = False
        self.ciphers: Ciphers | None = None
        self._held = bytearray()  # the line, the length, or all of a packet that is in the clear

    def room(self) -> int:
        """How many bytes may be taken before it must be asked again; at least 1."""
        if self.begin is None:
            return 1
        if self.end is None:
            return self.begin + _LENGTH - self.position
        return self.end - self.position

    def take(self, data: bytes | memoryview) -> None:
        assert 0 < len(data) <= self.room()
        self.position += len(data)
        if self.begin is None:
            self._held += data
            self._take_line()
            return
        if self.end is None or not self.encrypted:
            self._held += data
        if self.end is None and self.position == self.begin + _LENGTH:
            self.end = self.position + self._rest()
        if self.position == self.end:
            self._finish()

    def _take_line(self) -> None:
        """The version; a server may send other lines before it."""
        if self._held.endswith(b"\n"):
            if self._held.startswith(b"SSH-"):
                self.begin = self.position
            self._held.clear()
        elif len(self._held) > _LONGEST_LINE:
            raise FramingError("this is not SSH")

    def _rest(self) -> int:
        """What follows the length of the packet in hand."""
        length = int.from_bytes(self._held)
        if not 0 < length <= _MOST or (self.encrypted and length % _BLOCK):
            raise FramingError(f"packet {self.packets + 1} cannot have {length} bytes")
        return length + _TAG if self.encrypted else length

    def _finish(self) -> None:
        if not self.encrypted:
            kind = self._held[5]
            if kind == _KEXINIT:
                self.ciphers = _ciphers(bytes(self._held[6:]))
            self.encrypted = kind == _NEWKEYS
        self._held.clear()
        self.packets += 1
        self.begin, self.end = self.end, None


def _ciphers(kexinit: bytes) -> Ciphers:
    """The third and fourth of the lists of names (RFC 4253, 7.1); 16 random bytes come first."""
    lists = []
    at = 16
    for _ in range(4):
        length = int.from_bytes(kexinit[at : at + 4])
        lists.append(kexinit[at + 4 : at + 4 + length].decode("ascii").split(","))
        at += 4 + length
    return Ciphers(*lists[2:])
