"""What is taken out of a copy of the program to show that the catalogue notices (`prove.py`).

Each proof removes one check; the cases that it names fail then, and no other of theirs. Cases that
no single check holds are in `LAYERED`, with the reason.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Proof(NamedTuple):
    check: str  # in words
    file: str
    old: str
    new: str
    breaks: tuple[str, ...]


_SESSION: Final = "pysshfs/remote/session.py"
_WIRE: Final = "pysshfs/remote/wire.py"
_CLIENT: Final = "pysshfs/remote/client.py"
_LINK: Final = "pysshfs/remote/link.py"
_SANITY: Final = "pysshfs/vfs/sanity.py"

WIRE: Final = (
    Proof("packets have at least a type and an id", _SESSION,
          "if not 5 <= length <=", "if not 0 <= length <=",
          ("length-zero", "length-too-short", "version-cut", "always-broken")),
    Proof("packets have at most 4 MiB", _SESSION,
          "5 <= length <= wire.MAX_REPLY", "5 <= length <= 1 << 40",
          ("length-over-cap", "length-endless", "extensions-over-cap", "garbage-first")),
    Proof("an answer belongs to a request", _SESSION,
          'raise ProtocolError(f"reply to request {request_id}, which is not out")', "return",
          ("unknown-id", "reply-before-request", "reused-id", "unsolicited", "status-for-init",
           "data-for-another-read", "ok-twice-for-write")),
    Proof("a request that was given up still has an answer to come", _SESSION,
          "pending = self._pending.get(request_id)\n        if pending is not None:\n"
          "            pending.abandoned",
          "pending = self._pending.pop(request_id, None)\n        if pending is not None:\n"
          "            pending.abandoned",
          ("late-answer", "late-wrong-answer", "drip-without-end")),
    Proof("VERSION comes once", _SESSION, 'raise ProtocolError("a second VERSION")', "return",
          ("second-version", "version-twice")),
    Proof("the version is 3", _SESSION, "if version != wire.VERSION:", "if False:",
          ("version-0", "version-2", "version-4", "version-highest")),
    Proof("an answer is of the type that was asked for", _SESSION,
          "if kind != pending.expected or pending.parse is None:",
          "if pending.parse is None:\n            return reply.set_result(None)\n        if False:",
          ("wrong-type", "unknown-type", "request-as-reply", "data-for-write", "handle-for-mkdir",
           "limits-as-attributes", "late-wrong-answer", "attributes-for-names", "names-for-data")),
    Proof("OK is no result", _SESSION,
          'raise ProtocolError("OK where a result was asked for")', "reply.set_result(None)",
          ("ok-for-attributes", "ok-for-data", "ok-for-names")),
    Proof("EOF is an answer to READ and READDIR only", _SESSION,
          "elif code == FX_EOF and pending.at_eof is not NO_EOF:", "elif code == FX_EOF:",
          ("end-for-write",)),
    Proof("what belongs to no request counts against the oldest", _SESSION,
          "if oldest is not None:", "if False:", ("always-broken",)),
    Proof("a byte now and then is no sign of life", _SESSION,
          "if at or self._received_more >= _STEP:", "if True:", ("drip-without-end",)),
    Proof("of what the server says on stderr, 20 lines are logged", _SESSION,
          "if self._stderr_lines < _MAX_STDERR_LINES:", "if True:", ("stderr-flood",)),
    Proof("the end of the channel's data is the end of the session", _SESSION,
          'self.fail(ConnectionLostError("the server ended the SFTP session"))', "pass",
          ("ends-in-answer", "ends-for-init")),
    Proof("the end of the channel is the end of the session", _SESSION,
          "def connection_lost(self, exc: Exception | None) -> None:",
          "def connection_lost(self, exc: Exception | None) -> None:\n        return",
          ("closes-in-answer", "drops-in-answer", "closes-before-answer", "drops-in-length",
           "disconnects-with-a-forged-line", "closes-for-init", "drops-for-init")),
    Proof("nothing is longer than its packet", _WIRE,
          "if count > self._end - at:", "if False:",
          ("truncated-inside", "string-longer-than-packet", "string-endless", "limits-short",
           "extension-cut", "status-cut", "status-message-cut", "names-count-too-high",
           "name-attributes-cut")),
    Proof("nothing is shorter than its packet", _WIRE, "if self._at != self._end:", "if False:",
          ("trailing-bytes", "string-shorter-than-packet", "handle-and-more",
           "names-count-too-low")),
    Proof("of a message, the beginning is taken", _WIRE,
          "reader.beginning(_MOST_MESSAGE).decode", "reader.string().decode",
          ("write-refusal-forges",)),
    Proof("messages need not be UTF-8", _WIRE, '.decode("utf-8", "replace")', '.decode("utf-8")',
          ("status-not-utf8", "write-refusal-forges")),
    Proof("a STATUS may have no message", _WIRE, "if reader.at_end:\n        return code, \"\"",
          "if False:\n        return code, \"\"", ("status-code-alone",)),
    Proof("there are at most 256 extensions", _WIRE, "if count > _MOST_EXTENSIONS:", "if False:",
          ("extensions-many",)),
    Proof("of two extensions with one name, the first counts", _WIRE,
          "found.setdefault(name, data)", "found[name] = data", ("extension-twice",)),
    Proof("there are at most 1,024 extended attributes", _WIRE,
          "if count > _MAX_EXTENDED_PAIRS:", "if False:",
          ("attributes-extended-many", "attributes-extended-empty")),
    Proof("flags of attributes are known", _WIRE,
          "if flags & ~(_USUAL_FLAGS | ATTR_EXTENDED):", "if False:", ("attribute-flags-unknown",)),
    Proof("there are at most 16,384 names in one answer", _WIRE, "if count > _MAX_NAMES:",
          "if False:", ("names-count-highest", "names-empty-many")),
    Proof("REALPATH and READLINK give one name", _WIRE, "if count != 1:", "if False:",
          ("link-of-no-name", "link-of-two-names", "realpath-of-none", "realpath-of-two",
           "realpath-of-1000")),
)  # fmt: skip

SESSIONS: Final = (
    Proof("handles have 1 to 256 bytes", _CLIENT, "if not 0 < len(token) <= _MAX_HANDLE:",
          "if False:", ("handle-empty", "handle-of-257", "handle-of-2-mib")),
    Proof("no more data than was asked for", _CLIENT, "if len(data) > length:", "if False:",
          ("data-longer-than-asked",)),
    Proof("limits are held within what is sensible", _CLIENT,
          "return min(max(stated, 512), MOST_LENGTH) if stated else fallback",
          "return fallback if stated is None else stated",
          ("limits-zero", "limits-one")),
    Proof("sessions are not tried without pause", "pysshfs/remote/pace.py",
          "return min(_MOST_SECONDS, 2.0 ** min(failures, 10))", "return 0.0",
          ("always-broken", "broken-at-each-start")),
    Proof("of a reason that the server gives, the beginning is told", _SESSION,
          "return str(error)[:_MOST_WORDS]", "return str(error)", ("refusal-forges",)),
    Proof("a session that stops answering while it is made ready is left",
          "pysshfs/remote/connection.py", "if self._resuming and self.session is not None and",
          "if False and self.session is not None and", ("silent-while-resuming",)),
    Proof("limits may be refused", _LINK, "except RemoteStatusError as error:",
          "except ZeroDivisionError as error:", ("limits-refused", "limits-refusal-forges")),
    Proof("the served directory's path is one", _LINK,
          'if len(base) >= _LONGEST_PATH or b"\\0" in base:', "if False:",
          ("realpath-with-nul", "realpath-of-a-mib")),
    Proof("the served directory is one, by an absolute path", _LINK,
          'if not base.startswith(b"/") or found.mode is None or not stat.S_ISDIR(found.mode):',
          "if False:", ("realpath-relative", "directory-is-a-file", "directory-without-mode")),
    Proof("a broken protocol is told from a missing directory", _LINK,
          "except ConnectionLostError as error:\n            raise SftpRefusedError",
          "except ZeroDivisionError as error:\n            raise SftpRefusedError",
          ("realpath-of-none", "realpath-of-two", "realpath-of-1000")),
    Proof("the server takes packets of some size", _LINK, "if least < _LEAST_PACKET:",
          "if False:", ("packets-of-one-byte",)),
    Proof("the handshake has a time limit", _LINK,
          "with trio.fail_after(self._route.target_timeout or _SFTP_SECONDS):",
          "with trio.fail_after(1000):", ("version-missing", "version-drip", "subsystem-silent")),
    Proof("nothing is compressed that was not to be", "pysshfs/remote/route.py",
          'options["compression_algs"] = None', "pass", ("compression-bomb",)),
    Proof("of a banner, 20 lines are logged", "pysshfs/remote/auth.py", "msg.splitlines()[:20]",
          "msg.splitlines()", ("login-banner-long",)),
    Proof("a message to the user is one line of printable text", "pysshfs/cli/journal.py",
          'line = f"{program}: {printable(message)}"', 'line = f"{program}: {message}"',
          ("refusal-forges",)),
    Proof("a line of the log is one line of printable text", "pysshfs/cli/logs.py",
          "record.message = printable(record.message)", "pass", ("limits-refusal-forges",)),
    Proof("codes that do not exist are errors", "pysshfs/errors.py",
          "STATUS_ERRNO.get(code, errno.EIO)", "STATUS_ERRNO[code]",
          ("status-code-unknown", "unknown-code-for-write")),
    Proof("-o timeout", "pysshfs/fuse/requests.py",
          "if policy.timeout and min(age, silence) >= policy.timeout:", "if False:",
          ("drip-without-end", "silent", "window-closed")),
)  # fmt: skip

MEANING: Final = (
    Proof("a file has a type", _SANITY,
          "if mode is None or mode & _TYPE not in _KINDS:", "if mode is None:\n"
          "        mode = 0o100644\n    if False:",
          ("attributes-without-mode",)),
    Proof("a regular file has a size", _SANITY, 'raise UnsafeReplyError("a file without a size")',
          "pass", ("attributes-without-size",)),
    Proof("a size is at most 2^63-1", _SANITY, "if not 0 <= size <= MAX_SIZE:", "if False:",
          ("size-2-63", "size-highest", "entry-impossible")),
    Proof("names have no '/'", _SANITY, 'or b"/" in name or', "or",
          ("name-with-slash", "name-forges")),
    Proof("names have no NUL", _SANITY, ' or b"\\0" in name:', ":", ("name-with-nul",)),
    Proof("names have at most 255 bytes", _SANITY, "or len(name) > NAME_MAX or", "or",
          ("name-of-256", "name-of-a-mib")),
    Proof("names come once, and none is empty", _SANITY, "if name in self._seen or", "if",
          ("name-twice", "name-empty", "name-of-dots")),
    Proof("a listing goes on with new names", _SANITY, "if self._barren > _MOST_BARREN:",
          "if False:", ("names-none-without-end", "names-same-without-end")),
    Proof("a listing has at most max_dir_entries", _SANITY,
          "if self.names > config.max_dir_entries:", "if False:", ("names-new-without-end",)),
    Proof("numbers of a file system can be multiplied", _SANITY,
          "    return size if size <= _LARGEST_BLOCK else 0", "    return size",
          ("statvfs-highest", "statvfs-2-32")),
    Proof("a file system has blocks of some size", _SANITY,
          "_block_size(statistics.fragment_size) or 4096",
          "_block_size(statistics.fragment_size)",
          ("statvfs-zeros", "statvfs-highest", "statvfs-2-32")),
    Proof("a link has 1 to 4,095 bytes, and no NUL", _SANITY,
          'if not 0 < len(target) < PATH_MAX or b"\\0" in target:', "if False:",
          ("link-with-nul", "link-empty", "link-of-4096", "link-of-a-mib")),
    Proof("links stay in the mount", "pysshfs/vfs/readlink.py",
          "if symlinks.is_contained(text, _depth_of(inode)):", "if True:",
          ("link-absolute", "link-climbs", "link-climbs-later", "link-forges", "link-turns")),
    Proof("a file ends at its size", "pysshfs/vfs/readahead.py",
          "for _ in range(_LOOKS):", "return data\n        for _ in range(_LOOKS):",
          ("data-of-nothing", "end-at-once", "end-too-early")),
    Proof("the rest of a short answer is asked for", "pysshfs/vfs/readahead.py",
          "if part and self._received < self.length:", "if False:",
          ("data-in-pieces", "data-by-bytes")),
)  # fmt: skip

PROOFS: Final = (*WIRE, *SESSIONS, *MEANING)

_WELL_FORMED: Final = "it is allowed: what is shown is that it does no harm"
_BLOCKS: Final = "held within 255 KiB, and READs and WRITEs have a size of our own besides"
_KERNEL: Final = "the kernel makes it EIO, too"
_SSH: Final = "asyncssh refuses it"

LAYERED: Final[dict[str, str]] = {
    "drip-in-time": _WELL_FORMED,
    "handle-twice": _WELL_FORMED,
    "file-without-end": "the kernel, too, reads no further than the size it was told",
    "read-fails": _WELL_FORMED,
    "limits-2-63": _BLOCKS,
    "limits-highest": _BLOCKS,
    "status-without-language": _WELL_FORMED,
    "status-of-3-mib": "a packet has at most 4 MiB, of a message 512 bytes are kept",
    "attributes-none": "neither type nor size: each alone is refused",
    "size-largest": _WELL_FORMED,
    "type-changes": "a lookup makes it another inode, and the old one is ESTALE by itself",
    "type-none": _KERNEL,
    "type-unknown": _KERNEL,
    "mode-with-more-bits": "the kernel, too, keeps 16 bits",
    "attributes-extended": _WELL_FORMED,
    "names-none-once": _WELL_FORMED,
    "name-not-utf8": _WELL_FORMED,
    "link-to-itself": "the kernel follows 40 links and no more",
    "extension-name-of-a-mib": "left out by its length, and a packet has at most 4 MiB",
    "extension-not-utf8": "names are bytes everywhere",
    "status-forges": "of a message about the directory, only the code is told",
    "login-banner-forges": "escaped where it is received, and where it is logged",
    "ssh-banner-of-a-mib": _SSH,
    "ssh-banner-of-many-lines": _SSH,
    "ssh-no-more-than-a-greeting": _SSH,
    "packets-of-nothing": _SSH,
}
