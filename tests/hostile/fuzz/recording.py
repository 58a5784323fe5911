"""Recorded conversations: what a real server answered to what was asked.

`conversations.json` holds, for each program of `programs.py`, the requests that it led to and
OpenSSH's replies, whole but for the id. `python -m tests.hostile.fuzz.record` makes it anew.
A request is known again by its *key*: type, path in the served directory, and what matters besides.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

from tests.hostile import sftp

FILE: Final = Path(__file__).with_name("conversations.json")
#: The served directory while it is recorded.
BASE: Final = b"/tmp/pysshfs-recorded"

_NAMES: Final = {
    getattr(sftp, name): name
    for name in (
        "OPEN", "CLOSE", "READ", "WRITE", "LSTAT", "FSTAT", "SETSTAT", "FSETSTAT", "OPENDIR",
        "READDIR", "REMOVE", "MKDIR", "RMDIR", "REALPATH", "STAT", "RENAME", "READLINK", "SYMLINK",
        "EXTENDED",
    )
}  # fmt: skip
_ON_HANDLES: Final = (
    sftp.CLOSE, sftp.READ, sftp.WRITE, sftp.FSTAT, sftp.FSETSTAT, sftp.READDIR,
)  # fmt: skip


class Request(NamedTuple):
    kind: int
    number: int
    key: str
    path: bytes  # that a handle in the answer would stand for
    turn: bytes = b""  # a listing begins anew with each handle


def understood(packet: bytes, handles: dict[bytes, bytes]) -> Request:
    """`handles`: what each handle stands for."""
    kind, number = packet[4], int.from_bytes(packet[5:9], "big")
    if kind == sftp.INIT:
        return Request(kind, 0, "INIT", b"")
    fields = sftp.Fields(packet[9:])
    first = fields.string()
    details: list[object] = []
    if kind in _ON_HANDLES:
        path = handles.get(first, b"?")
        if kind == sftp.READ:
            details = [fields.u64(), fields.u32()]
    elif kind == sftp.EXTENDED:
        details = [first.decode()]
        path = b"" if first == b"limits@openssh.com" else fields.string()
        path = handles.get(path, b"?") if first == b"fsync@openssh.com" else path
        if first == b"copy-data":
            path = handles.get(path, b"?")
    elif kind in (sftp.RENAME, sftp.SYMLINK):
        path = fields.string()
    else:
        path = first
        if kind == sftp.OPEN:
            details = [fields.u32()]
    key = " ".join((_NAMES[kind], ascii(_below(path)), *map(str, details)))
    return Request(kind, number, key, path, first if kind == sftp.READDIR else b"")


def _below(path: bytes) -> bytes:
    return path.removeprefix(BASE).removeprefix(b"/") if path.startswith(BASE) else path


def _alike(request: Request) -> list[str]:
    """Its key, and those of requests with the same answer."""
    name, _, rest = request.key.partition(" ")
    if request.kind in (sftp.STAT, sftp.FSTAT, sftp.LSTAT):
        others = [f"LSTAT {rest}", f"FSTAT {rest}", f"STAT {rest}"]
        return [request.key, *(key for key in others if key != request.key)]
    if rest.endswith("statvfs@openssh.com"):
        return [request.key, f"{name} b'' statvfs@openssh.com"]
    return [request.key]


class Conversations:
    """What was recorded, for each program by the requests' keys."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, list[bytes]]] = {}
        self.by_kind: dict[int, list[bytes]] = defaultdict(list)
        for program, exchanges in json.loads(FILE.read_text()).items():
            known = self.answers[program] = defaultdict(list)
            for key, answer in exchanges:
                reply = bytes.fromhex(answer)
                known[key].append(reply)
                self.by_kind[reply[0]].append(reply)


class Replay:
    """One conversation: the recorded answers to what is asked, in turn. The last one that there is
    is given from then on. Handles are made anew, as files are open together that were not then."""

    def __init__(self, recorded: Conversations, programs: list[str]) -> None:
        others = [name for name in recorded.answers if name not in programs]
        self._sources = [recorded.answers[name] for name in (*programs, *others)]
        self._given: dict[tuple[str, bytes], int] = defaultdict(int)
        self.handles: dict[bytes, bytes] = {}
        self.invented = 0  # answers that were not recorded

    def answer(self, packet: bytes) -> tuple[Request, bytes]:
        """The reply, from its length on."""
        request = understood(packet, self.handles)
        kind, body = self._recorded(request)
        if kind == sftp.VERSION:
            return request, sftp.packet(kind, body)
        if kind == sftp.HANDLE:
            token = sftp.u32(len(self.handles))
            self.handles[token] = request.path
            body = sftp.string(token)
        return request, sftp.reply(kind, request.number, body)

    def _recorded(self, request: Request) -> tuple[int, bytes]:
        for key in _alike(request):
            for source in self._sources:
                answers = source.get(key)
                if answers:
                    nth = self._given[key, request.turn]
                    self._given[key, request.turn] += 1
                    answer = answers[min(nth, len(answers) - 1)]
                    return answer[0], answer[1:]
        if request.kind == sftp.READ:
            return self._part(request)
        self.invented += 1
        code = sftp.NO_SUCH_FILE if request.kind in (sftp.LSTAT, sftp.STAT) else sftp.FAILURE
        return sftp.STATUS, sftp.u32(code) + sftp.string(b"") * 2

    def _part(self, request: Request) -> tuple[int, bytes]:
        """A READ of other bytes than were recorded, of a file whose bytes were."""
        wanted, path, offset, length = request.key.split(" ")[:4]
        for source in self._sources:
            for key, answers in source.items():
                if key.startswith(f"{wanted} {path} 0 ") and answers[0][0] == sftp.DATA:
                    data = answers[0][5:][int(offset) : int(offset) + int(length)]
                    if data:
                        return sftp.DATA, sftp.string(data)
                    return sftp.STATUS, sftp.u32(sftp.EOF) + sftp.string(b"End of file") * 2
        self.invented += 1
        return sftp.STATUS, sftp.u32(sftp.FAILURE) + sftp.string(b"") * 2
