"""Cases: listings, names and links."""

from __future__ import annotations

from typing import Any, Final

from tests.hostile import sftp, tricks
from tests.hostile.case import Asked, Case, Outcome, Rule, Trick
from tests.hostile.tree import link

MIB: Final = 1 << 20
ABC: Final = ["a", "b", "c"]
_FILE: Final = sftp.attributes(0o100644, 1)
_NONE: Final = sftp.u32(0)
_SOME: Final = [sftp.entry(name, _FILE) for name in (b"a", b"b", b"c")]


def _listing(name: str, does: str, trick: Trick, sees: Any, *says: str, **more: Any) -> Case:
    """What READDIR gives, the first time or always; the session goes on."""
    rule = Rule(sftp.READDIR, trick, b"dir", times=more.pop("times", 1))
    return Case(name, "listing", does, (rule,), Outcome.SURVIVES, ((("listing", "dir"), sees),),
                says=says, **more)  # fmt: skip


def _names(
    name: str, does: str, odd: list[bytes], *says: str, wanted: list[str] | None = None
) -> Case:
    """These names among others."""
    entries = [_SOME[0], *[sftp.entry(each, _FILE) for each in odd], *_SOME[1:]]
    return _listing(name, does, tricks.named(*entries), sorted(ABC + (wanted or [])), *says)


def _broken(name: str, does: str, trick: Trick, *says: str) -> Case:
    """A listing that breaks the protocol fails; another one does not."""
    rule = Rule(sftp.READDIR, trick, b"dir", times=1)
    sees = ((("listing", "dir"), "EIO"), (("listing", "dir"), ABC))
    return Case(name, "listing", does, (rule,), Outcome.RECONNECTS, sees, says=says)


def _fresh(asked: Asked, _proper: bytes) -> bytes:
    """A hundred names that were not there before."""
    numbers = range(100 * asked.nth, 100 * asked.nth + 100)
    return sftp.names(asked.number, [sftp.entry(b"%d" % number, _FILE) for number in numbers])


def _late(asked: Asked, _proper: bytes) -> bytes:
    return sftp.names(asked.number, _SOME if asked.nth else [])


LISTINGS: Final = (
    _listing("names-none-once", "sends NAME without names before the others", _late, ABC, times=2),
    _listing("names-none-without-end", "sends NAME without names, without end", tricks.named(),
             "EOVERFLOW", "replies without a new name", times=None, seconds=4),
    _listing("names-same-without-end", "sends the same names without end", tricks.named(*_SOME),
             "EOVERFLOW", "replies without a new name", times=None, seconds=4),
    _listing("names-new-without-end", "sends new names without end", _fresh, "EOVERFLOW",
             "max_dir_entries=20000", times=None, seconds=8, options=("max_dir_entries=20000",)),
    _broken("names-count-highest", "says that there are 2^32-1 names",
            tricks.named(*_SOME, count=0xFFFFFFFF), "4294967295 names"),
    _broken("names-count-too-high", "says that there are 4 names, and sends 3",
            tricks.named(*_SOME, count=4), "truncated"),
    _broken("names-count-too-low", "says that there are 2 names, and sends 3",
            tricks.named(*_SOME, count=2), "too many"),
    _broken("names-empty-many", "sends 16,385 names that are empty, in one answer",
            tricks.named(*[sftp.entry(b"", _NONE, b"")] * 16_385), "16385 names"),
    _broken("name-attributes-cut", "leaves out the last attributes' end", tricks.cut(3),
            "truncated"),
    _broken("attributes-for-names", "answers READDIR with attributes", tricks.attributes(_FILE),
            "type 105"),
    _broken("ok-for-names", "answers READDIR with STATUS OK", tricks.status(sftp.OK),
            "OK where a result"),
)  # fmt: skip

NAMES: Final = (
    _names("name-with-slash", "sends names with '/'", [b"x/y", b"/etc", b"../../x"], "'/'"),
    _names("name-with-nul", "sends names with NUL", [b"x\0y", b"a\0"], "NUL"),
    _names("name-of-dots", "sends '.' and '..' twice", [b".", b"..", b".", b".."],
           "2 duplicate"),
    _names("name-empty", "sends an empty name", [b""], "empty"),
    _names("name-of-256", "sends a name of 256 bytes, and one of 255", [b"x" * 256, b"y" * 255],
           "over 255", wanted=["y" * 255]),
    _names("name-of-a-mib", "sends a name of 1 MiB", [b"x" * MIB], "over 255"),
    _names("name-twice", "sends names twice", [b"a", b"a", b"b"], "duplicate"),
    _names("name-not-utf8", "sends a name that is no UTF-8", [b"\xff\xfe"], wanted=["\xff\xfe"]),
    _names("name-forges", "sends names with newlines and terminal escapes, one of which cannot be",
           [b"x\npysshfs: forged\x1b[2J", b"x\npysshfs: forged\x9b/\r"],
           wanted=["x\npysshfs: forged\x1b[2J"]),
    _listing("entry-impossible", "has a file of impossible size among others",
             tricks.named(*_SOME, sftp.entry(b"x", sftp.attributes(0o100644, 1 << 63))),
             [*ABC, "x"], "impossible"),
)  # fmt: skip


def _link(name: str, does: str, text: bytes, errno: str, **more: Any) -> Case:
    """The text of a link is this."""
    rule = Rule(sftp.READLINK, tricks.named(sftp.entry(text, _NONE)), b"link")
    return Case(name, "links", does, (rule,), Outcome.SURVIVES,
                ((("readlink", "link"), errno), (("read", "link"), errno)), **more)  # fmt: skip


def _leads_out_later(asked: Asked, proper: bytes) -> bytes:
    text = sftp.entry(b"../../../etc/hostname", _NONE)
    return proper if asked.nth == 0 else sftp.names(asked.number, [text])


def _broken_link(name: str, does: str, count: int, *says: str) -> Case:
    entries = [sftp.entry(b"good", _NONE)] * count
    rule = Rule(sftp.READLINK, tricks.named(*entries), b"link", times=1)
    return Case(name, "links", does, (rule,), Outcome.RECONNECTS, ((("readlink", "link"), "good"),),
                says=says)  # fmt: skip


LINKS: Final = (
    _link("link-with-nul", "gives a link with NUL in it", b"good\0/etc", "EIO"),
    _link("link-empty", "gives an empty link", b"", "EIO"),
    _link("link-of-4096", "gives a link of 4,096 bytes", b"x" * 4096, "EIO"),
    _link("link-of-a-mib", "gives a link of 1 MiB", b"x/" * (MIB // 2), "EIO"),
    _link("link-absolute", "gives a link to this machine's files", b"/etc/hostname", "EPERM",
          alone=True, says=("symlinks=all",)),
    _link("link-climbs", "gives a link that leads above the mount", b"../../../etc/hostname",
          "EPERM", alone=True, says=("symlinks=all",)),
    _link("link-climbs-later", "gives a link that climbs behind a name",
          b"dir/../../../../etc/hostname", "EPERM", alone=True, says=("symlinks=all",)),
    _link("link-forges", "gives a link out with a line for the log",
          b"/etc/x\npysshfs: forged\x1b[2J", "EPERM", alone=True),
    Case("link-turns", "links", "gives a link that leads out the second time",
         (Rule(sftp.READLINK, _leads_out_later, b"link"),), Outcome.SURVIVES,
         ((("readlink", "link"), "good"), (("readlink", "link"), "EPERM")), alone=True,
         options=("dir_cache=no",)),
    Case("link-to-itself", "links", "has links that lead to one another", (), Outcome.SURVIVES,
         ((("read", "one"), "ELOOP"), (("read", "itself"), "ELOOP")),
         nodes={b"one": link(b"two"), b"two": link(b"one"), b"itself": link(b"itself")}),
    _broken_link("link-of-no-name", "gives no name for READLINK", 0, "0 names"),
    _broken_link("link-of-two-names", "gives two names for READLINK", 2, "2 names"),
)  # fmt: skip
