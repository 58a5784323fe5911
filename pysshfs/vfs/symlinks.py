"""What a link's text means, by its letters alone. Pure functions; nothing is asked.

Why a text can be made safe. The kernel resolves it from the directory in which the link lies: a
name is looked up, and comes back to us, whatever the server makes of it; `..` is the kernel's own
business, it goes to the parent that it knows and asks nobody. So a text leads out of the mount in
two ways only: it is absolute, or it holds more `..` than there are directories above the place
where they are reached. A `..` behind a name is not reached at a place that we know, since the name
may be a link, or become one. A relative text with `..` at its beginning only, and at most as many
as the link's directory is deep, stays inside: each further step is a name, and where that is a
link, its own text is checked when the kernel asks for it.

`place` and `directory` below are lists of names relative to the served directory, without `.` or
`..`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UP: Final = b".."


def components(text: bytes) -> list[bytes]:
    """Names and `..`, in order, without what changes nothing (`.`, repeated slashes)."""
    return [part for part in text.split(b"/") if part not in (b"", b".")]


def is_absolute(text: bytes) -> bool:
    return text.startswith(b"/")


def is_contained(text: bytes, depth: int) -> bool:
    """Whether the kernel cannot leave the mount by following this, from a directory that is `depth`
    names below its root."""
    if is_absolute(text) or not text or b"\0" in text:
        return False
    if UP not in text:  # most links
        return True
    parts = components(text)
    climbed = 0
    while climbed < len(parts) and parts[climbed] == UP:
        climbed += 1
    return climbed <= depth and UP not in parts[climbed:]


def is_strict(text: bytes) -> bool:
    """The rule of sshfs 3.7.6 (contain_symlinks): relative, and without any `..`."""
    return not is_absolute(text) and UP not in text.split(b"/")


def within(path: Sequence[bytes], top: Sequence[bytes]) -> list[bytes] | None:
    """The rest of `path` below `top`; None when it lies elsewhere."""
    return list(path[len(top) :]) if list(path[: len(top)]) == list(top) else None


def canonical(path: bytes) -> list[bytes] | None:
    """The names of an absolute path such as REALPATH gives; None when it is no such path."""
    parts = components(path)
    if not is_absolute(path) or b"\0" in path or UP in parts:
        return None
    return parts


def relative(place: Sequence[bytes], directory: Sequence[bytes]) -> bytes:
    """The text that leads from `directory` to `place`: `..` at its beginning only, and at most as
    many as `directory` has names."""
    common = 0
    for ours, theirs in zip(place, directory, strict=False):
        if ours != theirs:
            break
        common += 1
    steps: list[bytes] = [UP] * (len(directory) - common)
    return b"/".join((*steps, *place[common:])) or b"."


def wants_directory(text: bytes) -> bool:
    """Whether following it must end in a directory (path_resolution(7): a trailing slash)."""
    return text.endswith((b"/", b"/."))


def transformed(text: bytes, served: Sequence[bytes], directory: Sequence[bytes]) -> bytes:
    """sshfs's transform_symlinks: an absolute target below the served directory, as a relative one;
    every other text as it is."""
    if not is_absolute(text):
        return text
    place = within(components(text), served)
    if place is None or UP in place:
        return text
    return relative(place, directory)


def joined(names: Iterable[bytes]) -> bytes:
    """The absolute path with these names."""
    return b"/" + b"/".join(names)
