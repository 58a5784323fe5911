"""Closing a TCP connection as a crashed machine would: with a reset, not in good order."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: closing sends RST


def reset_when_closed(sock: socket.socket | TransportSocket) -> None:
    """Whoever closes it resets it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def reset(sock: socket.socket) -> None:
    """End it here and now."""
    reset_when_closed(sock)
    sock.close()
