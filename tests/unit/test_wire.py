"""Protocol 3 as bytes: there and back again, and nothing but `ProtocolError` for what is broken."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysshfs.errors import ProtocolError
from pysshfs.remote import wire
from pysshfs.remotefs import (
    AttributeChange,
    Attributes,
    DirectoryEntry,
    FilesystemStatistics,
    OwnerNames,
)

if TYPE_CHECKING:
    from collections.abc import Callable

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)


def pairs(first: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int | None, int | None]]:
    return st.one_of(st.just((None, None)), st.tuples(first, first))


@st.composite
def attributes(draw: st.DrawFn) -> Attributes:
    uid, gid = draw(pairs(U32))
    atime, mtime = draw(pairs(U32))
    mode, size = draw(st.none() | U32), draw(st.none() | U64)
    return Attributes(mode, size, uid, gid, atime, mtime)


def packed(value: Attributes) -> bytes:
    """The block as a server sends it, which is also how a client sends a change."""
    return wire.encode_change(AttributeChange(*value))


def extended(value: Attributes, extensions: list[tuple[bytes, bytes]]) -> bytes:
    block = bytearray(packed(value))
    block[0] |= 0x80
    block += wire.u32(len(extensions))
    for name, data in extensions:
        block += wire.string(name) + wire.string(data)
    return bytes(block)


# --- there and back -----------------------------------------------------------------------------


@given(attributes())
def test_attributes_come_back(value: Attributes) -> None:
    reader = wire.Reader(packed(value) + b"rest")
    assert reader.attributes() == value
    assert not reader.at_end


@given(attributes(), st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=4))
def test_extended_attributes_are_passed_over(
    value: Attributes, extensions: list[tuple[bytes, bytes]]
) -> None:
    reader = wire.Reader(extended(value, extensions))
    assert reader.attributes() == value
    assert reader.at_end


@given(st.binary(max_size=300), U32, U64)
def test_fields_come_back(text: bytes, small: int, large: int) -> None:
    data = wire.string(text) + wire.u32(small) + wire.u64(large)
    for source in (data, memoryview(data)):
        reader = wire.Reader(source)
        assert (reader.string(), reader.u32(), reader.u64()) == (text, small, large)
        assert reader.at_end


def test_a_packet_states_its_length_type_and_id() -> None:
    assert wire.packet(wire.FXP_LSTAT, 7, wire.string(b"/a")) == (
        b"\0\0\0\x0b" b"\x07" b"\0\0\0\x07" b"\0\0\0\x02" b"/a"
    )  # fmt: skip
    assert wire.init_packet() == b"\0\0\0\x05\x01\0\0\0\x03"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_write_is_the_same_packet_whatever_holds_its_data(kind: Callable[[bytes], Any]) -> None:
    fields = (wire.string(b"handle"), wire.u64(1 << 40), wire.string(b"data"))
    expected = wire.packet(wire.FXP_WRITE, 9, *fields)
    assert wire.write_packet(9, b"handle", 1 << 40, kind(b"data")) == expected


@pytest.mark.parametrize(
    "half",
    [
        AttributeChange(uid=1),
        AttributeChange(gid=1),
        AttributeChange(atime=1),
        AttributeChange(mtime=1),
    ],
)
def test_half_a_pair_cannot_be_sent(half: AttributeChange) -> None:
    with pytest.raises(ValueError, match="travel together"):
        wire.encode_change(half)


def test_times_are_kept_within_what_the_protocol_has() -> None:
    block = wire.encode_change(AttributeChange(atime=-5, mtime=1 << 40))
    assert wire.Reader(block).attributes()[4:] == (0, 0xFFFFFFFF)


@given(st.lists(st.tuples(st.binary(max_size=20), attributes()), max_size=5))
def test_entries_come_back(entries: list[tuple[bytes, Attributes]]) -> None:
    body = wire.u32(len(entries)) + b"".join(
        wire.string(name) + wire.string(b"-rw-r--r-- long") + packed(value)
        for name, value in entries
    )
    assert wire.parse_entries(wire.Reader(body)) == [DirectoryEntry(*entry) for entry in entries]


def test_a_reply_has_no_more_names_than_anybody_sends() -> None:
    entry = wire.string(b"") + wire.string(b"") + wire.u32(0)
    most = wire._MAX_NAMES
    assert len(wire.parse_entries(wire.Reader(wire.u32(most) + most * entry))) == most
    with pytest.raises(ProtocolError):
        wire.parse_entries(wire.Reader(wire.u32(most + 1) + (most + 1) * entry))


def test_statvfs_comes_back() -> None:
    body = struct.pack(">11Q", *range(1, 12))
    expected = FilesystemStatistics(1, 2, 3, 4, 5, 6, 7, 8, 11)
    assert wire.parse_statvfs(wire.Reader(body)) == expected


def test_status() -> None:
    body = wire.u32(4) + wire.string(b"no \xff") + wire.string(b"en")
    assert wire.parse_status(wire.Reader(body)) == (4, "no \ufffd")
    assert wire.parse_status(wire.Reader(wire.u32(2))) == (2, "")


def test_a_single_name() -> None:
    rest = wire.string(b"target") + wire.string(b"") + packed(Attributes(*[None] * 6))
    assert wire.parse_single_name(wire.Reader(wire.u32(1) + rest)) == b"target"
    for count in (0, 2, 0xFFFFFFFF):
        with pytest.raises(ProtocolError):
            wire.parse_single_name(wire.Reader(wire.u32(count) + rest))


def test_extensions_are_bounded() -> None:
    pairs = [wire.string(b"%d" % number) + wire.string(b"1") for number in range(257)]
    assert len(wire.parse_extensions(wire.Reader(b"".join(pairs[:-1])))) == 256
    with pytest.raises(ProtocolError, match="extensions"):
        wire.parse_extensions(wire.Reader(b"".join(pairs)))


def test_of_extensions_the_first_of_a_name_counts_and_none_is_long() -> None:
    words = [b"a", b"1", b"a", b"2", b"b" * 256, b"3", b"c" * 257, b"4", b"d", b"5" * 257]
    found = wire.parse_extensions(wire.Reader(b"".join(map(wire.string, words))))
    assert found == {b"a": b"1", b"b" * 256: b"3"}


def test_of_a_message_only_the_beginning_is_taken() -> None:
    body = wire.u32(4) + wire.string(b"x" * 1_000_000) + wire.string(b"en")
    code, message = wire.parse_status(wire.Reader(body))
    assert code == 4 and message == "x" * 512


@pytest.mark.parametrize("flag", [0x10, 0x100, 0x4000_0000])
def test_attribute_flags_that_protocol_3_lacks_are_refused(flag: int) -> None:
    with pytest.raises(ProtocolError):
        wire.Reader(wire.u32(flag) + bytes(64)).attributes()


def test_counts_that_cannot_be_true_are_refused_at_once() -> None:
    with pytest.raises(ProtocolError):
        wire.Reader(wire.u32(0x8000_0000) + wire.u32(0xFFFFFFFF) + bytes(64)).attributes()
    with pytest.raises(ProtocolError):
        wire.parse_entries(wire.Reader(wire.u32(0xFFFFFFFF) + bytes(64)))


# --- broken replies -------------------------------------------------------------------------------

FULL = Attributes(0o100644, 10, 1, 2, 3, 4)
ENTRY = wire.string(b"name") + wire.string(b"long name") + packed(FULL)
PAIR = wire.string(b"name") + wire.string(b"1")
REPLIES: dict[str, tuple[Callable[[wire.Reader], object], bytes]] = {
    "status": (wire.parse_status, wire.u32(4) + wire.string(b"message")),
    "handle": (wire.parse_string, wire.string(b"handle")),
    "skipped": (wire.Reader.skip_string, wire.string(b"handle")),
    "attributes": (wire.parse_attributes, packed(FULL)),
    "some attributes": (wire.Reader.attributes, packed(FULL._replace(size=None))),
    "extended": (wire.Reader.attributes, extended(FULL, [(b"a", b"b"), (b"c", b"")])),
    "entries": (wire.parse_entries, wire.u32(2) + ENTRY + ENTRY),
    "single name": (wire.parse_single_name, wire.u32(1) + wire.string(b"target")),
    "statvfs": (wire.parse_statvfs, bytes(88)),
    "owner names": (
        lambda reader: wire.parse_owner_names(reader, 2, 1),
        wire.string(wire.string(b"ann") + wire.string(b"")) + wire.string(wire.string(b"staff")),
    ),
    "extensions": (wire.parse_extensions, PAIR + PAIR),
}
# Where a shorter reply is a whole one, too.
WHOLE_PREFIXES = {"status": {4}, "extensions": {0, len(PAIR)}}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_cut_at_any_byte_is_a_protocol_error(reply: str) -> None:
    parse, body = REPLIES[reply]
    parse(wire.Reader(body))
    for length in range(len(body)):
        if length in WHOLE_PREFIXES.get(reply, ()):
            parse(wire.Reader(body[:length]))
            continue
        for source in (body[:length], memoryview(body)[:length]):
            with pytest.raises(ProtocolError):
                parse(wire.Reader(source))


@pytest.mark.parametrize(("users", "groups"), [(1, 1), (3, 1), (2, 0), (2, 2), (0, 0)])
def test_other_names_than_were_asked_for_are_refused(users: int, groups: int) -> None:
    parse, body = REPLIES["owner names"]
    assert parse(wire.Reader(body)) == OwnerNames([b"ann", b""], [b"staff"])
    with pytest.raises(ProtocolError):
        wire.parse_owner_names(wire.Reader(body), users, groups)


@pytest.mark.parametrize("reply", ["handle", "attributes", "entries"])
def test_a_reply_with_more_than_it_says_is_a_protocol_error(reply: str) -> None:
    parse, body = REPLIES[reply]
    with pytest.raises(ProtocolError, match="1 bytes too many"):
        parse(wire.Reader(body + b"\0"))


@pytest.mark.parametrize("reply", REPLIES)
@given(data=st.data())
def test_a_spoiled_reply_raises_nothing_else(reply: str, data: st.DataObject) -> None:
    parse, body = REPLIES[reply]
    spoiled = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        parse(wire.Reader(bytes(spoiled)))


@given(st.binary(max_size=200), st.sampled_from(sorted(REPLIES)))
def test_rubbish_raises_nothing_else(body: bytes, reply: str) -> None:
    with suppress(ProtocolError):
        REPLIES[reply][0](wire.Reader(body))
