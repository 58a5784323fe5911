"""The server of one conversation: recorded answers, some of which are spoiled on their way.

What it did is kept, as far as it says which answers can be true (`Hostile`, `End`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pysshfs.errors import ProtocolError
from tests.hostile import sftp
from tests.hostile.fuzz import mutations
from tests.hostile.fuzz.findings import Finding
from tests.hostile.fuzz.packets import parsed, split
from tests.hostile.fuzz.recording import Conversations, Replay, Request
from tests.hostile.fuzz.sound import is_sound

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from random import Random

    from pysshfs.remote.session import SftpSession

_LONGEST_REPLY: Final = 4 << 20  # bytes, as `docs/security.md` has it
_MOST_REPLIES: Final = 30_000  # in one conversation: something goes on without end
_WAYS: Final = {
    "shaped": 55, "bytes": 10, "drop": 5, "twice": 5, "hold": 8, "first": 3, "splice": 7,
    "stderr": 1, "eof": 2, "close": 2, "version": 2, "deaf": 1,
}  # fmt: skip
_HABITS: Final = (
    sftp.READ, sftp.READ, sftp.READ, sftp.LSTAT, sftp.FSTAT, sftp.OPEN, sftp.OPENDIR, sftp.READDIR,
    sftp.READLINK, sftp.REALPATH, sftp.WRITE, sftp.EXTENDED, sftp.RENAME, sftp.CLOSE,
)  # fmt: skip
_HANDSHAKE: Final = 4  # replies: VERSION, limits, REALPATH, STAT


class Hostile:
    """`rate` is how many of the replies are spoiled, `opening` of those of a handshake."""

    is_honest = False  # it spoils nothing

    def __init__(
        self,
        rng: Random,
        recorded: Conversations,
        programs: list[str],
        spoiled: Counter[str],
        answered: Counter[int],
    ) -> None:
        self.rng = rng
        self.replay = Replay(recorded, programs)
        self.rate = rng.choice((0.0, 0.02, 0.05, 0.1, 0.1, 0.2, 0.4))
        self.opening = rng.choice((0.0, 0.0, 0.01, 0.05, 0.2))
        # A kind of request that is always answered wrongly in the same way.
        self.habit = rng.choice(_HABITS) if rng.random() < 0.3 else None
        self.habit_seed = rng.random()
        if self.habit is not None:  # and often nothing else is wrong
            self.rate, self.opening = rng.choice((0.0, self.rate)), 0.0
        self.replies = 0  # after handshakes
        self.of_data = self.of_sizes = False  # what was said may be wrong
        self.is_over = self.is_honest  # from now on it tells the truth
        self.last_lie = 0.0  # when something was spoiled last (seconds, of whatever clock there is)
        self.clock: Callable[[], float] = lambda: 0.0
        self.ends: list[End] = []
        self.spoiled, self.answered = spoiled, answered
        self._recorded = recorded

    def lied(self) -> None:
        self.of_data = self.of_sizes = True

    def another(self) -> tuple[int, bytes]:
        """Any reply that was recorded: type and body."""
        kinds = self._recorded.by_kind
        reply = self.rng.choice(kinds[self.rng.choice(list(kinds))])
        return reply[0], reply[1:]

    def counts(self, is_handshake: bool) -> None:
        self.replies += not is_handshake
        if self.replies > _MOST_REPLIES:
            raise Finding(f"{self.replies} replies, and no end")


class End:
    """The server's end of one channel."""

    def __init__(self, server: Hostile) -> None:
        self.is_closed = False
        self.is_deaf = False  # nothing can be sent any more
        self.owes = False  # an answer was kept back, or went to another
        self.is_out_of_step = False  # nobody knows any more where a packet begins
        self.has_lied_at_start = False
        self.is_misled = False  # an answer goes to nobody, or may
        self.is_broken = False  # a packet that breaks the protocol was, or will be, sent
        self.session: SftpSession | None = None
        self._server = server
        self._asked = bytearray()
        self._out: list[bytes] = []
        self._held: list[bytes] = []
        self._answers = 0
        self._closing = ""
        server.ends.append(self)

    def opened(self, session: SftpSession) -> None:
        self.session = session

    def sent(self, data: bytes) -> None:
        if self.is_deaf:
            raise BrokenPipeError("the server takes nothing more")
        self._asked += data
        for packet in split(self._asked):
            request, proper = self._server.replay.answer(packet)
            self._answers += 1
            self._server.counts(self._answers <= _HANDSHAKE)
            self._server.answered[proper[4]] += 1
            if self._is_habit(request):
                server = self._server
                server.spoiled["habit"] += 1
                server.last_lie = server.clock()
                self._says(request, mutations.habitual(server.habit_seed, parsed(proper)))
            elif self._is_spoiled():
                self._spoil(request, proper)
            else:
                self._out.append(proper)

    def closed(self) -> None:
        self.is_closed = True
        if self.owes or self.is_out_of_step:  # until now
            self._server.last_lie = self._server.clock()

    def check_broken(self) -> None:
        """What breaks the protocol ends the session, once all of it has been said; nothing else
        is taken for that."""
        session = self.session
        if session is None or self.is_out_of_step:
            return
        if self.is_broken and not (self.has_more or self.is_closed or session.lost is not None):
            raise Finding("a reply that breaks the protocol was believed")
        if isinstance(session.lost, ProtocolError) and not (self.is_broken or self.is_misled):
            raise Finding(f"a session was ended for nothing: {session.lost}")

    @property
    def has_more(self) -> bool:
        return not self.is_closed and bool(self._out or self._held or self._closing)

    def deliver(self) -> None:
        """Say what there is to be said."""
        session, rng = self.session, self._server.rng
        assert session is not None
        if self._held and (not self._out or rng.random() < 0.3):
            self._out.append(self._held.pop(0))
        pieces, self._out = self._out, []
        if len(pieces) > 1 and rng.random() < 0.1:
            rng.shuffle(pieces)
        stream = b"".join(pieces)
        for piece in self._cut(stream):
            if not self.is_closed:
                session.data_received(piece, None)
        closing, self._closing = self._closing, ""
        if closing == "eof" and not self.is_closed:
            session.eof_received()
        elif closing and not self.is_closed:
            session.connection_lost(None)

    def _cut(self, stream: bytes) -> list[bytes]:
        """How it happens to arrive."""
        rng = self._server.rng
        if not stream or rng.random() < 0.9:
            return [stream] if stream else []
        if len(stream) < 100 and rng.random() < 0.3:
            return [stream[at : at + 1] for at in range(len(stream))]
        at = rng.randrange(len(stream))
        return [stream[:at], stream[at:]]

    # --- spoiling -----------------------------------------------------------------------------

    def _is_habit(self, request: Request) -> bool:
        server, is_handshake = self._server, self._answers <= _HANDSHAKE
        return request.kind == server.habit and not server.is_over and not is_handshake

    def _is_spoiled(self) -> bool:
        server = self._server
        rate = server.opening if self._answers <= _HANDSHAKE else server.rate
        return not server.is_over and server.rng.random() < rate

    def _spoil(self, request: Request, proper: bytes) -> None:
        server, rng = self._server, self._server.rng
        (way,) = rng.choices(list(_WAYS), list(_WAYS.values()))
        server.spoiled[way] += 1
        server.last_lie = server.clock()
        if way == "shaped":
            self._says(request, mutations.shaped(rng, parsed(proper)))
        elif way == "bytes":
            self._says(request, mutations.bytes_spoiled(rng, proper))
        elif way == "drop":
            self.owes = True
        elif way == "twice":
            self.is_misled = True
            self._out += [proper, proper]
        elif way == "hold":
            self._held.append(proper)
        elif way == "first":  # something that nobody asked for
            self.is_misled = True
            number = rng.choice((request.number + 1, request.number + 50, 0xFFFFFFFF)) & 0xFFFFFFFF
            self._says(request, sftp.status(number, rng.choice((0, 1, 4))))
            self._out.append(proper)
        elif way == "splice":
            kind, body = server.another()
            prefix = sftp.u32(request.number) if kind != sftp.VERSION else b""
            self._says(request, sftp.packet(kind, prefix + body))
        elif way == "version":
            self.is_broken = True
            self._out += [proper, sftp.version(3, b"x", b"1")]
        elif way == "deaf":
            self.is_deaf = self.owes = True
        elif way == "stderr":
            assert self.session is not None
            for _ in range(rng.choice((1, 25))):
                self.session.data_received(b"words\x1b[2J\n" * 30, 1)
            self._out.append(proper)
        else:
            self._closing = way

    def _says(self, request: Request, stream: bytes) -> None:
        """Something that is not the proper answer."""
        self._out.append(stream)
        rest = bytearray(stream)
        packets = split(rest)
        for packet in packets:
            self._judge(request, packet)
            is_answer = packet[5:9] == sftp.u32(request.number)
            if is_answer or packet[4:5] == b"\2" or request.kind == sftp.INIT:
                self.is_broken |= not is_sound(request.kind, request.key, packet)
            else:
                self.is_misled = True
        if len(packets) > 1:
            self.is_misled = True
        if request.number not in [int.from_bytes(packet[5:9], "big") for packet in packets]:
            self.owes = True
        if rest:
            announced = int.from_bytes(rest[:4], "big")
            is_possible = len(rest) < 4 or 5 <= announced <= _LONGEST_REPLY
            self.is_out_of_step |= is_possible
            self.is_broken |= not is_possible
            self._server.lied()

    def _judge(self, request: Request, packet: bytes) -> None:
        """What may be wrong now that this was said."""
        server, kind = self._server, packet[4] if len(packet) > 4 else 0
        number = int.from_bytes(packet[5:9], "big")
        if self._answers <= _HANDSHAKE and request.kind != sftp.EXTENDED:
            self.has_lied_at_start = True
            server.lied()
        if number != request.number and request.kind != sftp.INIT:
            server.lied()
        elif kind in (sftp.DATA, sftp.HANDLE):
            server.of_data = True
        elif kind != sftp.STATUS or request.kind != sftp.READ:
            server.of_sizes = True
