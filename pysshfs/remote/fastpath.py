"""The fast path: data of an open channel, between the socket and the SFTP session.

asyncssh treats each packet alike: it copies what is behind it in the receive buffer, makes a cipher
object for it, describes it for its log, and sends an empty packet (MSG_IGNORE) ahead of each of its
own. For key exchange, login and channel requests that is of no weight; for the thousands of
CHANNEL_DATA packets a second of which a mount lives it was more than a third of the daemon's
processor time in a sequential read. So `Connection`, a `SSHClientConnection` of asyncssh's, treats
CHANNEL_DATA under AES-GCM by itself (and drops what is to be ignored), and leaves every other
packet, and every case that is not the plain one, to asyncssh: that packet then takes asyncssh's way
from its first byte, with asyncssh's checks and errors, and what has come behind it follows.

What it relies on are private attributes of asyncssh, so it is used with versions for which it is
known to be right (`_KNOWN`); with any other, and any other cipher, all goes through asyncssh, only
slower. State that asyncssh has (sequence numbers, the cipher's invocation counter, windows, the
bytes until the next key exchange) stays where it is: both ways read and write the same, and any
packet may go either way. Of its own there are the two cipher objects, remade when the keys change.

Nothing here awaits. Touched by the bridge's task (receiving) and by whoever sends, in one thread.

Protocol: RFC 4253 section 6 (packets), RFC 5647 section 7.2 (the invocation counter), OpenSSH's
PROTOCOL section 1.6 (aes128-gcm@openssh.com: the length is sent in the clear and authenticated),
RFC 4254 section 5.2 (CHANNEL_DATA, windows).
"""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final

import asyncssh
from asyncssh.encryption import GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncssh.crypto.cipher import GCMCipher

log = logging.getLogger(__name__)

_KNOWN: Final = "2.24."  # how the versions begin with which this was tested

_IGNORE: Final = 2
_CHANNEL_DATA: Final = 94
_LENGTH: Final = 4  # bytes: what precedes a packet
_TAG: Final = 16  # bytes: what follows it
_BEFORE_DATA: Final = 10  # bytes in a packet: padding length, type, channel, data length
_BEFORE_IGNORED: Final = 6  # the same without a channel
_BLOCK: Final = 16  # packets, without their length and tag, are multiples of it
_LEAST_PADDING: Final = 4
# What share of the time between two keepalives may pass before the time is counted anew.
_KEEPALIVE_SHARE: Final = 16


def hasten(connection: asyncssh.SSHClientConnection) -> None:
    """Let a connection that asyncssh has made take the fast path, if it can."""
    if type(connection) is asyncssh.SSHClientConnection and asyncssh.__version__.startswith(_KNOWN):
        connection.__class__ = Connection
    else:
        log.info(
            "asyncssh %s is not known here: transfers take more of the processor's time",
            asyncssh.__version__,
        )


def writer(channel: asyncssh.SSHClientChannel[bytes]) -> Callable[[bytes], None]:
    """What writes to a channel: its own `write`, or the fast path to the same effect."""
    connection = channel.get_connection()
    if isinstance(connection, Connection):
        return functools.partial(connection.write, channel)
    return channel.write


def _advanced(iv: bytes) -> bytes:
    """The initialisation vector of the next packet: its invocation counter, the last 8 bytes."""
    counter = (int.from_bytes(iv[4:], "big") + 1) & 0xFFFF_FFFF_FFFF_FFFF
    return iv[:4] + counter.to_bytes(8, "big")


class _Keys:
    """The cipher object of one direction, for as long as the keys are the same."""

    __slots__ = ("aead", "cipher", "encryption")

    def __init__(self, encryption: GCMEncryption) -> None:
        self.encryption = encryption
        self.cipher: GCMCipher = encryption._cipher
        self.aead = AESGCM(self.cipher._key)

    @classmethod
    def of(cls, encryption: GCMEncryption, kept: _Keys | None) -> _Keys:
        """`kept`, unless the keys have changed."""
        return kept if kept is not None and kept.encryption is encryption else cls(encryption)


class Connection(asyncssh.SSHClientConnection):
    """Made by `hasten` out of a connection that exists, so there is no constructor."""

    _receive_keys: _Keys | None = None
    _send_keys: _Keys | None = None
    _heard_at = 0.0  # by the loop's clock: since when the time to the next keepalive is counted

    # --- receiving --------------------------------------------------------------------------

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        keys = self._keys_to_receive()
        if keys is None:
            super().data_received(data, datatype)
            return
        self._put_off_keepalive()
        if self._inpbuf:
            data, self._inpbuf = self._inpbuf + data, b""
        try:
            with memoryview(data) as view:
                self._take_apart(data, view, keys)
        except Exception:  # as asyncssh does: whatever it is, the connection cannot go on
            self.internal_error()

    def _keys_to_receive(self) -> _Keys | None:
        """None while asyncssh has to look at the next packet itself."""
        encryption = self._recv_encryption
        if (
            type(encryption) is not GCMEncryption
            or not self._auth_final
            or self._decompressor
            or self._recv_handler != self._recv_pkthdr
        ):
            return None
        self._receive_keys = _Keys.of(encryption, self._receive_keys)
        return self._receive_keys

    def _take_apart(self, data: bytes, view: memoryview, keys: _Keys) -> None:
        """Every whole packet of `data`; what is left goes to asyncssh's buffer."""
        at = 0
        while len(view) - at >= _LENGTH + _TAG:
            length = int.from_bytes(view[at : at + _LENGTH], "big")
            end = at + _LENGTH + length + _TAG
            is_too_long = length > self._max_recv_pktlen
            if end > len(view) and not is_too_long:
                break
            if is_too_long or not self._deliver(view[at:end], keys):
                # asyncssh's, and all that is here behind it.
                self._inpbuf = data[at:]
                self._recv_data()
                return
            at = end
            if self._transport is None:
                return  # closed by what was received
        self._inpbuf = data[at:]

    def _deliver(self, packet: memoryview, keys: _Keys) -> bool:
        """Give a channel its data, if that is what the packet has; else nothing has changed."""
        iv = keys.cipher._iv
        try:
            plain = keys.aead.decrypt(iv, packet[_LENGTH:], packet[:_LENGTH])
        except InvalidTag:
            return False
        if len(plain) < _BEFORE_DATA or not plain[0]:
            return False
        data: bytes | None = None
        channel: Any = None
        if plain[1] == _CHANNEL_DATA:
            channel = self._channels.get(int.from_bytes(plain[2:6], "big"))
            data = self._string(plain, _BEFORE_DATA)
            if (
                data is None
                or channel is None
                or channel._recv_state != "open"
                or len(data) > channel._recv_window
            ):
                return False
        elif plain[1] != _IGNORE or self._string(plain, _BEFORE_IGNORED) is None:
            return False
        keys.cipher._iv = _advanced(iv)
        self._recv_seq = (self._recv_seq + 1) & 0xFFFF_FFFF
        if channel is not None and data:
            channel._accept_data(data)
        return True

    @staticmethod
    def _string(plain: bytes, at: int) -> bytes | None:
        """What a packet ends with, whose length stands before `at`; None if that is not right."""
        end = at + int.from_bytes(plain[at - 4 : at], "big")
        return plain[at:end] if end + plain[0] == len(plain) else None

    def _put_off_keepalive(self) -> None:
        """asyncssh makes a new timer for whatever is received; this does for what comes after a
        while, so a keepalive may be sent earlier by that share of the time between two."""
        now = self._loop.time()
        if now - self._heard_at > self._keepalive_interval / _KEEPALIVE_SHARE:
            self._heard_at = now
            self._reset_keepalive_timer()

    # --- sending ----------------------------------------------------------------------------

    def write(self, channel: Any, data: bytes) -> None:
        """Send data on a channel of this connection, as its `write` does. Raises OSError."""
        encryption = self._send_encryption
        if (
            type(encryption) is not GCMEncryption
            or not self._kex_complete
            or self._compressor
            or (self._rekey_seconds and time.monotonic() >= self._rekey_time)
            or channel._send_state != "open"
        ):
            channel.write(data)
            return
        keys = self._send_keys = _Keys.of(encryption, self._send_keys)
        at = 0
        with memoryview(data) as view:
            while at < len(view):
                size = min(len(view) - at, channel._send_window, channel._send_pktsize)
                if not size or self._rekey_bytes_sent >= self._rekey_bytes:
                    break
                channel._send_window -= size
                self._send_data(keys, channel._send_chan, view[at : at + size])
                at += size
        if at < len(data):
            channel.write(data[at:])

    def _send_data(self, keys: _Keys, channel: int, data: memoryview) -> None:
        padding = -(_BEFORE_DATA + len(data)) % _BLOCK
        if padding < _LEAST_PADDING:
            padding += _BLOCK
        length = (_BEFORE_DATA + len(data) + padding).to_bytes(_LENGTH, "big")
        head = bytes((padding, _CHANNEL_DATA)) + channel.to_bytes(4, "big")
        plain = b"".join((head, len(data).to_bytes(4, "big"), data, os.urandom(padding)))
        iv = keys.cipher._iv
        keys.cipher._iv = _advanced(iv)  # first of all: no two packets may ever have the same
        sealed = keys.aead.encrypt(iv, plain, length)
        self._send_seq = (self._send_seq + 1) & 0xFFFF_FFFF
        self._rekey_bytes_sent += len(plain)
        self._send(length)
        self._send(sealed)
