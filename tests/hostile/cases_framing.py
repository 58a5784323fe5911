"""Cases: packets, ids and types; the session's end at any point; what comes slowly or never."""

from __future__ import annotations

from typing import Final

from tests.hostile import sftp, tricks
from tests.hostile.case import Act, Case, Disconnect, Outcome, Pause, Rule, Ssh, Stderr, Trick
from tests.hostile.server import CONTENT

SIZE: Final = ((("size", "file"), len(CONTENT)),)
READ: Final = ((("read", "file"), CONTENT.decode()),)
MIB: Final = 1 << 20


def broken(name: str, does: str, trick: Trick, *says: str, **more: object) -> Case:
    """The first answer to an LSTAT breaks the protocol: a program notices nothing but a delay."""
    rule = Rule(sftp.LSTAT, trick, b"file", times=1)
    return Case(name, "framing", does, (rule,), Outcome.RECONNECTS, SIZE, says=says, **more)  # type: ignore[arg-type]  # the other fields, passed on


def ended(name: str, does: str, trick: Trick, *says: str) -> Case:
    """The session ends in the middle of a READ's answer."""
    rule = Rule(sftp.READ, trick, b"file", times=1)
    return Case(name, "ending", does, (rule,), Outcome.RECONNECTS, READ, says=says)


FRAMING: Final = (
    broken("length-zero", "sends a packet of length 0", tricks.raw(sftp.u32(0)), "0 bytes"),
    broken(
        "length-too-short",
        "sends a packet too short for an id",
        tricks.raw(sftp.packet(sftp.STATUS, b"\0\0\0")),
        "4 bytes",
    ),
    broken(
        "length-over-cap",
        "announces a packet of 4 MiB and a byte",
        tricks.raw(sftp.u32(4 * MIB + 1) + bytes(64)),
        "4194305 bytes",
    ),
    broken(
        "length-endless",
        "announces a packet of 4 GiB and sends 32 MiB of it",
        tricks.raw(sftp.u32(0xFFFFFFFF) + bytes(32 * MIB)),
        "4294967295 bytes",
    ),
    broken(
        "truncated-inside", "leaves out the last bytes of attributes", tricks.cut(3), "truncated"
    ),
    broken(
        "trailing-bytes",
        "sends attributes with more behind them",
        tricks.longer(b"more"),
        "4 bytes too many",
    ),
    broken("wrong-type", "answers LSTAT with DATA", tricks.typed(sftp.DATA), "type 103"),
    broken(
        "unknown-type", "answers with a type that does not exist", tricks.typed(250), "type 250"
    ),
    broken("request-as-reply", "sends a request of its own", tricks.typed(sftp.OPEN), "type 3"),
    broken(
        "unknown-id",
        "answers a request that was never sent",
        tricks.with_number(lambda number: number + 100_000),
        "not out",
    ),
    broken(
        "reply-before-request",
        "answers the next request before it is sent",
        lambda asked, proper: sftp.status(asked.number + 1, sftp.OK) + proper,
        "not out",
    ),
    broken("reused-id", "answers a request twice", tricks.twice, "not out"),
    broken(
        "unsolicited",
        "sends a STATUS with the last of all ids, and then the answer",
        tricks.after(sftp.status(0xFFFFFFFF, sftp.OK)),
        "not out",
    ),
    broken(
        "second-version", "sends VERSION again", tricks.after(sftp.version()), "a second VERSION"
    ),
    broken(
        "ok-for-attributes",
        "answers LSTAT with STATUS OK",
        tricks.status(sftp.OK),
        "OK where a result",
    ),
    Case(
        "string-longer-than-packet",
        "framing",
        "sends DATA that is longer than its packet",
        (Rule(sftp.READ, tricks.body(sftp.DATA, sftp.string(b"x" * 100, 101)), b"file", times=1),),
        Outcome.RECONNECTS,
        READ,
        says=("truncated",),
    ),
    Case(
        "string-endless",
        "framing",
        "sends a handle of 4 GiB, as it says",
        (
            Rule(
                sftp.OPEN, tricks.body(sftp.HANDLE, sftp.string(b"h", 0xFFFFFFFF)), b"file", times=1
            ),
        ),
        Outcome.RECONNECTS,
        READ,
        says=("truncated",),
    ),
    Case(
        "string-shorter-than-packet",
        "framing",
        "sends DATA that is shorter than its packet",
        (Rule(sftp.READ, tricks.body(sftp.DATA, sftp.string(CONTENT, 100)), b"file", times=1),),
        Outcome.RECONNECTS,
        READ,
        says=("too many",),
    ),
    Case(
        "always-broken",
        "framing",
        "breaks the protocol over one file each time",
        (Rule(sftp.LSTAT, tricks.raw(sftp.u32(0)), b"file"),),
        Outcome.RECONNECTS,
        ((("size", "file"), "EIO"),),
        seconds=6,
        at_least=1,
        recovers=6,
        sessions=4,
    ),
    Case(
        "broken-at-each-start",
        "framing",
        "ends a session, and breaks the protocol as the next two begin",
        (
            Rule(sftp.LSTAT, tricks.raw(sftp.u32(0)), b"file", times=1),
            Rule(sftp.INIT, tricks.raw(sftp.version(4)), skip=1, times=2),
        ),
        Outcome.RECONNECTS,
        SIZE,
        seconds=9,
        at_least=2,
        sessions=4,
    ),
)

ENDING: Final = (
    ended("closes-in-answer", "closes the channel in the middle of an answer",
          tricks.half(Act.CLOSE), "closed"),
    ended("ends-in-answer", "sends EOF in the middle of an answer", tricks.half(Act.END), "ended"),
    ended("drops-in-answer", "closes the socket in the middle of an answer",
          tricks.half(Act.ABORT), "lost"),
    ended("closes-before-answer", "closes the channel in place of an answer",
          tricks.steps(Act.CLOSE), "closed"),
    ended("drops-in-length", "closes the socket in the middle of a packet's length",
          tricks.steps(b"\0\0", Act.ABORT), "lost"),
    ended("disconnects-with-a-forged-line", "disconnects, with a line for the log as the reason",
          tricks.steps(Disconnect("gone\npysshfs: forged\x1b[2J\r\x9b")), "closed"),
)  # fmt: skip

SLOW: Final = (
    Case("drip-in-time", "slow", "sends an answer a byte at a time",
         (Rule(sftp.LSTAT, tricks.drip(0.005, 100), b"file", times=1),), Outcome.SURVIVES, SIZE,
         seconds=2),
    Case("drip-without-end", "slow", "sends an answer a byte at a time, for longer than -o timeout",
         (Rule(sftp.LSTAT, tricks.drip(0.1, 35), b"file", times=1),), Outcome.SURVIVES,
         ((("size", "file"), "ETIMEDOUT"), (("sleep", 2.5), True)), seconds=4,
         options=("timeout=1",), alone=True),
    Case("silent", "slow", "never answers one request",
         (Rule(sftp.LSTAT, tricks.silence, b"file"),), Outcome.SURVIVES,
         ((("size", "file"), "ETIMEDOUT"),), seconds=4, options=("timeout=1",), alone=True),
    Case("silent-while-resuming", "slow", "ends a session, and on the next one never says whether"
         " the open file is still the same",
         (Rule(sftp.READ, tricks.raw(sftp.u32(0)), b"file", times=1),
          Rule(sftp.FSTAT, tricks.silence, b"file", times=1)), Outcome.RECONNECTS, READ, seconds=8,
         at_least=1, sessions=3, options=("ConnectTimeout=1",), says=("made ready",)),
    Case("late-answer", "slow", "answers when the program has been interrupted",
         (Rule(sftp.LSTAT, tricks.after(Pause(1)), b"file", times=1),), Outcome.SURVIVES,
         ((("interrupted", 0.3, "size", "file"), "interrupted"), (("sleep", 1), True)), seconds=2,
         alone=True),
    Case("late-wrong-answer", "slow", "answers wrongly when the program has been interrupted",
         (Rule(sftp.LSTAT, lambda asked, proper: (Pause(0.6), sftp.data(asked.number, b"x")),
               b"file", times=1),), Outcome.RECONNECTS,
         ((("interrupted", 0.3, "size", "file"), "interrupted"), (("sleep", 1), True)), seconds=2,
         says=("type 103",)),
    Case("window-closed", "slow", "takes nothing more, and never adjusts the window",
         (Rule(sftp.WRITE, tricks.then(Act.STOP_READING), b"file", times=1),), Outcome.SURVIVES,
         ((("write_mib", "file", 8), "ETIMEDOUT"),), seconds=8, alone=True,
         options=("timeout=1", "max_write_buffer=1048576"), ssh=Ssh(window=1 << 16), grows=24,
         blocks=True),
    Case("stderr-flood", "slow", "says 16 MiB on its stderr",
         (Rule(sftp.LSTAT, tricks.after(*[Stderr(b"no end\x1b[2J\n" * 5000)] * 256), b"file",
               times=1),), Outcome.SURVIVES, SIZE, seconds=5, alone=True,
         options=("log_level=info",), log_lines=30),
)  # fmt: skip
