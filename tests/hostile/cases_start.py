"""Cases: what the server says before there is a mount."""

from __future__ import annotations

from typing import Any, Final

from tests.hostile import sftp, tricks
from tests.hostile.case import Act, Case, Outcome, Pause, Rule, Ssh, Trick
from tests.hostile.server import CONTENT
from tests.hostile.tree import EXTENSIONS

READ: Final = ((("read", "file"), CONTENT.decode()),)
MIB: Final = 1 << 20
_FORGED: Final = "welcome\x1b]0;owned\x07\npysshfs: forged\r\x9b2J"


def refused(name: str, does: str, trick: Trick, *says: str, **more: Any) -> Case:
    """What answers INIT."""
    return Case(name, "version", does, (Rule(sftp.INIT, trick),), Outcome.REFUSED,
                says=says, seconds=5, **more)  # fmt: skip


def taken(name: str, does: str, trick: Trick, **more: Any) -> Case:
    """What answers INIT, and is a mount after all."""
    more.setdefault("sees", READ)
    return Case(name, "version", does, (Rule(sftp.INIT, trick),), Outcome.SURVIVES, alone=True,
                **more)  # fmt: skip


def at_start(group: str, name: str, does: str, kind: int, trick: Trick, *says: str,
             **more: Any) -> Case:  # fmt: skip
    return Case(name, group, does, (Rule(kind, trick),), Outcome.REFUSED, says=says, seconds=5,
                **more)  # fmt: skip


def limits(*numbers: int) -> Trick:
    return tricks.body(sftp.EXTENDED_REPLY, b"".join(map(sftp.u64, numbers)))


def with_limits(name: str, does: str, trick: Trick, **more: Any) -> Case:
    sees = (*READ, (("write_mib", "new", 1), 1), (("size", "new"), MIB))
    return Case(name, "limits", does, (Rule(sftp.EXTENDED, trick, times=1),), Outcome.SURVIVES,
                sees, alone=True, **more)  # fmt: skip


_MANY: Final = b"".join(sftp.string(b"x%d" % n) + sftp.string(b"") for n in range(250_000))
_NONE: Final = sftp.u32(0)

VERSION: Final = (
    refused("version-0", "speaks version 0", tricks.raw(sftp.version(0)), "version 0"),
    refused("version-2", "speaks version 2", tricks.raw(sftp.version(2)), "version 2"),
    refused("version-4", "speaks version 4", tricks.raw(sftp.version(4)), "version 4"),
    refused("version-highest", "speaks version 4294967295", tricks.raw(sftp.version(0xFFFFFFFF)),
            "version 4294967295"),
    refused("version-missing", "never sends VERSION", tricks.silence, "does not answer",
            options=("ConnectTimeout=1",)),
    refused("version-drip", "sends VERSION a byte at a time", tricks.drip(0.3, 100),
            "does not answer", options=("ConnectTimeout=1",)),
    refused("version-twice", "sends VERSION twice", tricks.twice, "a second VERSION"),
    refused("version-cut", "sends a VERSION of one byte", tricks.raw(sftp.packet(2, b"\0")),
            "2 bytes"),
    refused("garbage-first", "says hello before VERSION",
            tricks.after(b"Welcome!\x1b[2J\n"), "bytes"),
    refused("status-for-init", "answers INIT with a STATUS",
            tricks.raw(sftp.status(3, sftp.FAILURE)), "not out"),
    refused("extensions-many", "has 250,000 extensions",
            tricks.raw(sftp.packet(2, sftp.u32(3) + _MANY)), "extensions"),
    refused("extensions-over-cap", "has 5 MiB of extensions",
            tricks.raw(sftp.version(3, b"x" * 5 * MIB, b"")), "bytes"),
    refused("extension-cut", "has an extension without its data",
            tricks.raw(sftp.version(3, b"x@example")), "truncated"),
    refused("closes-for-init", "closes the channel in place of VERSION", tricks.steps(Act.CLOSE)),
    refused("ends-for-init", "sends EOF in place of VERSION", tricks.steps(Act.END)),
    refused("drops-for-init", "closes the socket in place of VERSION", tricks.steps(Act.ABORT)),
    taken("extension-name-of-a-mib", "has an extension name of 1 MiB, and data of 1 MiB",
          tricks.raw(sftp.version(3, *EXTENSIONS, b"x" * MIB, b"1", b"y", b"2" * MIB)), grows=8),
    taken("extension-not-utf8", "has an extension that is no UTF-8, with terminal escapes",
          tricks.raw(sftp.version(3, *EXTENSIONS, b"\xff\xfe\x1b[2J\n", b"\0\xff"))),
    taken("extension-twice", "has an extension twice, the second time in another version",
          tricks.raw(sftp.version(3, *EXTENSIONS, b"statvfs@openssh.com", b"99")),
          sees=((("statvfs", "."), [4096, 4096, 1000, 500, 255]),)),
)  # fmt: skip

LIMITS: Final = (
    with_limits("limits-zero", "states limits of 0", limits(0, 0, 0, 0)),
    with_limits("limits-one", "states limits of 1", limits(1, 1, 1, 1), seconds=4),
    with_limits("limits-2-63", "states limits of 2^63", limits(*[1 << 63] * 4)),
    with_limits("limits-highest", "states limits of 2^64-1", limits(*[(1 << 64) - 1] * 4)),
    with_limits("limits-refused", "offers limits and refuses to tell them",
                tricks.status(sftp.FAILURE, b"no")),
    with_limits("limits-refusal-forges", "refuses to tell its limits, with lines for the log",
                tricks.status(sftp.FAILURE, _FORGED.encode()), options=("log_level=info",),
                log_lines=30, says=("does not tell its limits",)),
    at_start("limits", "limits-short", "states three limits", sftp.EXTENDED, limits(1, 2, 3),
             "truncated"),
    at_start("limits", "limits-as-attributes", "answers limits with attributes", sftp.EXTENDED,
             tricks.attributes(sftp.attributes(0o100644, 1)), "type 105"),
)  # fmt: skip

DIRECTORY: Final = (
    at_start("realpath", "realpath-of-none", "gives no name for REALPATH", sftp.REALPATH,
             tricks.named(), "0 names"),
    at_start("realpath", "realpath-of-two", "gives two names for REALPATH", sftp.REALPATH,
             tricks.named(*[sftp.entry(b"/realpath-of-two", _NONE)] * 2), "2 names"),
    at_start("realpath", "realpath-of-1000", "gives 1000 names for REALPATH", sftp.REALPATH,
             tricks.named(*[sftp.entry(b"/realpath-of-1000", _NONE)] * 1000), "1000 names"),
    Case("realpath-relative", "realpath", "gives a relative path for REALPATH, which is there",
         (Rule(sftp.REALPATH, tricks.named(sftp.entry(b"../..", _NONE))),
          Rule(sftp.STAT, tricks.attributes(sftp.attributes(0o040755, 1))),
          Rule(sftp.LSTAT, tricks.attributes(sftp.attributes(0o040755, 1)))),
         Outcome.REFUSED, status=7, seconds=5, says=("not a directory",)),
    at_start("realpath", "realpath-with-nul", "gives a path with a NUL for REALPATH", sftp.REALPATH,
             tricks.named(sftp.entry(b"/realpath-with-nul\0/x", _NONE)), "NUL"),
    at_start("realpath", "realpath-of-a-mib", "gives a path of 1 MiB for REALPATH", sftp.REALPATH,
             tricks.named(sftp.entry(b"/x" * (MIB // 2), _NONE)), "1048576 bytes"),
    at_start("realpath", "directory-is-a-file", "has a file for the directory", sftp.STAT,
             tricks.attributes(sftp.attributes(0o100644, 1)), "not a directory", status=7),
    at_start("realpath", "directory-without-mode", "tells no permissions of the directory",
             sftp.STAT, tricks.attributes(_NONE), "not a directory", status=7),
    at_start("realpath", "status-forges", "refuses the directory with terminal escapes, at length",
             sftp.STAT, tricks.status(sftp.FAILURE, _FORGED.encode() * 40_000), status=7),
)  # fmt: skip

SSH: Final = (
    Case("ssh-banner-of-a-mib", "ssh", "says 1 MiB without a newline before SSH begins", (),
         Outcome.REFUSED, status=4, seconds=5, ssh=Ssh(raw=b"x" * MIB)),
    Case("ssh-banner-of-many-lines", "ssh", "says 100,000 lines before SSH begins", (),
         Outcome.REFUSED, status=4, seconds=5, ssh=Ssh(raw=b"hello\x1b[2J\r\n" * 100_000)),
    Case("ssh-no-more-than-a-greeting", "ssh", "says nothing more once SSH has begun", (),
         Outcome.REFUSED, status=4, seconds=5, options=("ConnectTimeout=1",),
         ssh=Ssh(raw=b"SSH-2.0-x\r\n")),
    Case("login-banner-forges", "ssh", "has a login banner with escapes and lines for the log", (),
         Outcome.SURVIVES, READ, alone=True, options=("log_level=info",), log_lines=30,
         ssh=Ssh(banner=_FORGED)),
    Case("login-banner-long", "ssh", "has a login banner of 5,000 lines", (), Outcome.SURVIVES,
         READ, alone=True, options=("log_level=info",), log_lines=30,
         ssh=Ssh(banner="line after line\n" * 5000)),
    Case("refusal-forges", "ssh", "refuses a channel, with lines for the log, at length", (),
         Outcome.REFUSED, seconds=5, ssh=Ssh(refusal=_FORGED * 1000)),
    Case("compression-bomb", "ssh", "insists on compression, which could unpack 1,000 times", (),
         Outcome.REFUSED, status=4, seconds=5, says=("compression",),
         ssh=Ssh(compression="zlib@openssh.com")),
    Case("packets-of-nothing", "ssh", "takes packets of 0 bytes", (), Outcome.REFUSED, seconds=5,
         ssh=Ssh(packet=0)),
    Case("packets-of-one-byte", "ssh", "takes packets of 1 byte", (), Outcome.REFUSED, seconds=5,
         says=("packets of 1",), ssh=Ssh(packet=1)),
    Case("subsystem-silent", "ssh", "does not answer after the channel is open",
         (Rule(sftp.INIT, tricks.after(Pause(30))),), Outcome.REFUSED, seconds=5,
         says=("does not answer",), options=("ConnectTimeout=1",)),
)  # fmt: skip
