"""Cases: handles, data, statuses, attributes and what they do to a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.hostile import sftp, tricks
from tests.hostile.case import Case, Outcome, Rule
from tests.hostile.server import CONTENT
from tests.hostile.tree import file

if TYPE_CHECKING:
    from tests.hostile.case import Asked, Sight, Step, Trick

READ: Final = ((("read", "file"), CONTENT.decode()),)
SIZE: Final = ((("size", "file"), len(CONTENT)),)
NO_DATA: Final = ((("read", "file"), "EIO"),)
NO_FILE: Final = ((("size", "file"), "EIO"),)
NOT_WRITTEN: Final = ((("write", "file", "new"), "EIO"),)
WRITTEN: Final = ((("write", "new", "content"), 7), (("read", "new"), "content"))
MIB: Final = 1 << 20
_ATTRIBUTES: Final = sftp.attributes(0o100644, len(CONTENT))
_FORGED: Final = b"no\npysshfs: forged\x1b[2J\r\xff\x9b"


def _kept(group: str, name: str, does: str, on: int, trick: Trick, sees: tuple[Sight, ...],
          **more: Any) -> Case:  # fmt: skip
    """What cannot be is refused, to one program; the session goes on."""
    rule = Rule(on, trick, more.pop("path", b"file"), times=more.pop("times", None))
    return Case(name, group, does, (rule,), Outcome.SURVIVES, sees, **more)


def _ended(group: str, name: str, does: str, on: int, trick: Trick, sees: tuple[Sight, ...],
           *says: str, **more: Any) -> Case:  # fmt: skip
    """What breaks the protocol once is made good by another session."""
    rule = Rule(on, trick, more.pop("path", b"file"), times=1)
    return Case(name, group, does, (rule,), Outcome.RECONNECTS, sees, says=says, **more)


def _too_much(asked: Asked, _proper: bytes) -> bytes:
    length = int.from_bytes(asked.body[-4:], "big")
    return sftp.data(asked.number, b"x" * (length + 1))


def _part(most: int) -> Trick:
    """DATA is in order, and short."""

    def do(_asked: Asked, proper: bytes) -> bytes:
        if proper[4] != sftp.DATA:
            return proper
        return sftp.data(int.from_bytes(proper[5:9], "big"), proper[13 : 13 + most])

    return do


def _then_ends(asked: Asked, proper: bytes) -> bytes:
    """A part of the data, then the end."""
    return _part(1000)(asked, proper) if asked.nth == 0 else sftp.status(asked.number, sftp.EOF)  # type: ignore[return-value]  # of bytes it makes bytes


def _more_each_time(asked: Asked, _proper: bytes) -> bytes:
    return sftp.reply(sftp.ATTRS, asked.number, sftp.attributes(0o100644, (asked.nth + 1) * MIB))


def _data_always(asked: Asked, _proper: bytes) -> bytes:
    length = int.from_bytes(asked.body[-4:], "big")
    return sftp.data(asked.number, b"x" * length)


def _another_type(asked: Asked, _proper: bytes) -> bytes:
    mode = 0o100644 if asked.nth < 2 else 0o040755
    return sftp.reply(sftp.ATTRS, asked.number, sftp.attributes(mode, 10))


HANDLES: Final = (
    _ended("handles", "handle-empty", "gives an empty handle", sftp.OPEN,
           tricks.body(sftp.HANDLE, sftp.string(b"")), READ, "handle of 0 bytes"),
    _ended("handles", "handle-of-257", "gives a handle of 257 bytes", sftp.OPEN,
           tricks.body(sftp.HANDLE, sftp.string(b"h" * 257)), READ, "handle of 257 bytes"),
    _ended("handles", "handle-of-2-mib", "gives a handle of 2 MiB", sftp.OPEN,
           tricks.body(sftp.HANDLE, sftp.string(b"h" * 2 * MIB)), READ, "handle of 2097152 bytes"),
    _ended("handles", "handle-and-more", "gives a handle with more behind it", sftp.OPEN,
           tricks.longer(b"?"), READ, "1 bytes too many"),
    _kept("handles", "handle-twice", "gives one handle for two files", sftp.OPEN,
          tricks.body(sftp.HANDLE, sftp.string(b"h1")),
          ((("both", "good", "dir/b"), ["g", "good\n"]),), path=b"dir/b", alone=True),
    _ended("handles", "handle-for-mkdir", "gives a handle for MKDIR", sftp.MKDIR,
           tricks.body(sftp.HANDLE, sftp.string(b"h1")), ((("mkdir", "new"), True),), "type 102",
           path=b"new"),
)  # fmt: skip

READS: Final = (
    _ended("read", "data-longer-than-asked", "sends a byte more than was asked for", sftp.READ,
           _too_much, READ, "bytes for a READ of"),
    _ended("read", "data-for-another-read", "answers another READ, which has its answer", sftp.READ,
           tricks.with_number(lambda number: number - 1), READ, "not out"),
    _ended("read", "ok-for-data", "answers READ with STATUS OK", sftp.READ, tricks.status(sftp.OK),
           READ, "OK where a result"),
    _ended("read", "names-for-data", "answers READ with NAME", sftp.READ, tricks.named(), READ,
           "type 104"),
    _kept("read", "data-of-nothing", "sends DATA of no bytes", sftp.READ,
          tricks.body(sftp.DATA, sftp.string(b"")), NO_DATA, says=("'data-of-nothing/file'",)),
    _kept("read", "end-at-once", "says that a file ends at once", sftp.READ,
          tricks.status(sftp.EOF), NO_DATA, says=("'end-at-once/file'",)),
    _kept("read", "end-too-early", "says that a file ends after 1,000 bytes", sftp.READ,
          _then_ends, NO_DATA, says=("'end-too-early/file'",)),
    _kept("read", "data-in-pieces", "sends 1,000 bytes for each READ", sftp.READ, _part(1000), READ,
          seconds=2),
    _kept("read", "data-by-bytes", "sends one byte for each READ", sftp.READ, _part(1),
          ((("read", "small"), "x" * 100),), path=b"small", nodes={b"small": file(b"x" * 100)}),
    _kept("read", "read-fails", "fails to read", sftp.READ, tricks.status(sftp.FAILURE), NO_DATA),
    Case("file-without-end", "read", "makes a file longer at each look, and always has data",
         (Rule(sftp.LSTAT, _more_each_time, b"file"),
          Rule(sftp.READ, _data_always, b"file")), Outcome.SURVIVES,
         ((("beginning", "file", 4 * MIB), 2 * MIB),), seconds=4, alone=True),
)  # fmt: skip

WRITES: Final = (
    _kept("write", "end-for-write", "answers WRITE with EOF", sftp.WRITE, tricks.status(sftp.EOF),
          NOT_WRITTEN),
    _kept("write", "unknown-code-for-write", "answers WRITE with code 2^31", sftp.WRITE,
          tricks.status(1 << 31), NOT_WRITTEN),
    _kept("write", "write-refusal-forges", "refuses WRITE, with lines for the log, at length",
          sftp.WRITE, tricks.status(sftp.FAILURE, _FORGED * 40_000), NOT_WRITTEN,
          says=("not take",)),
    _ended("write", "ok-twice-for-write", "answers WRITE twice", sftp.WRITE, tricks.twice, WRITTEN,
           "not out", path=b"new"),
    _ended("write", "data-for-write", "answers WRITE with DATA", sftp.WRITE,
           tricks.body(sftp.DATA, sftp.string(b"x")), WRITTEN, "type 103", path=b"new"),
)  # fmt: skip

STATUS: Final = (
    _kept("status", "status-code-alone", "sends STATUS without message and language", sftp.LSTAT,
          tricks.body(sftp.STATUS, sftp.u32(sftp.NO_SUCH_FILE)), ((("size", "file"), "ENOENT"),)),
    _kept("status", "status-without-language", "sends STATUS without language", sftp.LSTAT,
          tricks.body(sftp.STATUS, sftp.u32(3) + sftp.string(b"no")),
          ((("size", "file"), "EACCES"),)),
    _kept("status", "status-code-unknown", "sends a code that does not exist", sftp.LSTAT,
          tricks.status(0xFFFFFFFF), NO_FILE),
    _kept("status", "status-not-utf8", "sends a message that is no text", sftp.LSTAT,
          tricks.status(sftp.FAILURE, _FORGED, b"\xff"), NO_FILE),
    _kept("status", "status-of-3-mib", "sends a message of 3 MiB, 8 times", sftp.LSTAT,
          tricks.status(sftp.FAILURE, b"x" * 3 * MIB), NO_FILE * 8, grows=32),
    _ended("status", "status-cut", "sends half a code", sftp.LSTAT,
           tricks.body(sftp.STATUS, b"\0\0"), SIZE, "truncated"),
    _ended("status", "status-message-cut", "sends a message longer than its packet", sftp.LSTAT,
           tricks.body(sftp.STATUS, sftp.u32(4) + sftp.string(b"no", 1 << 30)), SIZE, "truncated"),
)  # fmt: skip


def _attributes(name: str, does: str, block: bytes, *sees: Sight, **more: Any) -> Case:
    """What an LSTAT gives."""
    return _kept("attributes", name, does, sftp.LSTAT, tricks.attributes(block),
                 sees or NO_FILE, **more)  # fmt: skip


def _broken(name: str, does: str, block: bytes, *says: str) -> Case:
    return _ended("attributes", name, does, sftp.LSTAT, tricks.attributes(block), SIZE, *says)


ATTRIBUTES: Final = (
    _attributes("attributes-none", "tells no attributes", sftp.u32(0)),
    _attributes("attributes-without-mode", "tells no permissions",
                sftp.u32(sftp.ATTR_SIZE) + sftp.u64(5)),
    _attributes("attributes-without-size", "tells no size",
                sftp.u32(sftp.ATTR_PERMISSIONS) + sftp.u32(0o100644)),
    _attributes("type-none", "tells no type", sftp.attributes(0o644, 5)),
    _attributes("type-unknown", "tells a type that does not exist", sftp.attributes(0o170644, 5)),
    _attributes("size-2-63", "tells a size of 2^63", sftp.attributes(0o100644, 1 << 63)),
    _attributes("size-highest", "tells a size of 2^64-1",
                sftp.attributes(0o100644, (1 << 64) - 1)),
    _attributes("size-largest", "tells the largest size that there is",
                sftp.attributes(0o100644, (1 << 63) - 1), (("size", "file"), (1 << 63) - 1)),
    _attributes("mode-with-more-bits", "tells a mode with bits above the type",
                sftp.attributes(0xABCD0000 | 0o100640, 5), (("mode", "file"), "100640")),
    _attributes("attributes-extended", "tells extended attributes",
                sftp.u32(sftp.ATTR_EXTENDED | 0x0F) + _ATTRIBUTES[4:] + sftp.u32(1)
                + sftp.string(b"a") + sftp.string(b"b"), *SIZE),
    _broken("attributes-extended-many", "tells of 2^32-1 extended attributes",
            sftp.u32(sftp.ATTR_EXTENDED) + sftp.u32(0xFFFFFFFF), "4294967295 extended"),
    _broken("attributes-extended-empty", "sends 4,000,000 bytes of empty extended attributes",
            sftp.u32(sftp.ATTR_EXTENDED) + sftp.u32(500_000) + bytes(4_000_000),
            "500000 extended"),
    _broken("attribute-flags-unknown", "sets attribute flags that do not exist",
            sftp.u32(0x7FFFFFFF) + bytes(100), "unknown attribute flags"),
    _kept("attributes", "type-changes", "tells another type later", sftp.LSTAT, _another_type,
          ((("kind", "file"), "100000"), (("kind", "file"), "40000"), (("kind", "file"), "40000")),
          alone=True, options=("dir_cache=no",)),
)  # fmt: skip


def _statvfs(name: str, does: str, number: int, sees: list[int]) -> Case:
    rule = Rule(sftp.EXTENDED, _numbers(number), b"")
    return Case(name, "statvfs", does, (rule,), Outcome.SURVIVES, ((("statvfs", "."), sees),),
                alone=True)  # fmt: skip


def _numbers(number: int) -> Trick:
    def do(asked: Asked, proper: bytes) -> bytes | list[Step]:
        if b"statvfs" not in asked.body:
            return proper
        return sftp.reply(sftp.EXTENDED_REPLY, asked.number, sftp.u64(number) * 11)

    return do


STATVFS: Final = (
    _statvfs("statvfs-zeros", "has a file system of nothing", 0, [4096, 4096, 0, 0, 255]),
    _statvfs("statvfs-highest", "has a file system of 2^64-1 of everything", (1 << 64) - 1,
             [4096, 4096, (1 << 63) // 4096 - 1, (1 << 63) // 4096 - 1, 255]),
    _statvfs("statvfs-2-32", "has blocks of 2^32 bytes", 1 << 32,
             [4096, 4096, 1 << 32, 1 << 32, 255]),
)  # fmt: skip
